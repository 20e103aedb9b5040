// A link shortener: the links are in PostgreSQL, the number of times they were followed is in Redis.
'use strict';

const { createHash } = require('node:crypto');
const express = require('express');
const Redis = require('ioredis');
const { Pool } = require('pg');
const database = require('./database');

const startedAt = new Date().toISOString();
const pool = new Pool({ ...database, max: 4 });
// An idle connection died. The pool has dropped it already.
pool.on('error', (error) => console.log(`a connection to PostgreSQL was lost: ${error.message}`));
const redis = new Redis({ host: process.env.REDIS_HOST ?? 'localhost', connectTimeout: 3000 });
redis.on('error', (error) => console.log(`no connection to Redis: ${error.message}`));
// The hooks of a warm image close all connections before the checkpoint. The pod may have other hosts than the build.
process.on('afterRestore', () => {
  pool.options.host = process.env.DB_HOST;
  redis.options.host = process.env.REDIS_HOST;
});

const app = express();
app.disable('x-powered-by');
app.use(express.json());

// For the readiness probe: PostgreSQL and Redis answer as well.
app.get('/healthz', async (request, response) => {
  await Promise.all([pool.query('SELECT 1'), redis.ping()]);
  response.json('ok');
});

// Tells which process answers: a restored one goes on with its start time.
app.get('/state', async (request, response) => {
  const { rows } = await pool.query('SELECT count(*)::int AS links FROM link');
  response.json({ startedAt, links: rows[0].links, visits: await redis.incr('visits') });
});

app.post('/links', async (request, response) => {
  const { url } = request.body ?? {};
  if (!URL.canParse(url)) {
    response.status(400).json({ error: 'url must be an absolute URL' });
    return;
  }
  const code = createHash('sha256').update(url).digest('base64url').slice(0, 8);
  await pool.query('INSERT INTO link (code, url) VALUES ($1, $2) ON CONFLICT DO NOTHING', [code, url]);
  response.status(201).json({ code, url, followed: Number(await redis.get(`followed:${code}`)) });
});

app.get('/to/:code', async (request, response) => {
  const { rows } = await pool.query('SELECT url FROM link WHERE code = $1', [request.params.code]);
  if (rows.length === 0) {
    response.status(404).json({ error: `no link ${request.params.code}` });
    return;
  }
  await redis.incr(`followed:${request.params.code}`);
  response.redirect(302, rows[0].url);
});

// Collects garbage; needs node --expose-gc.
app.get('/collect', (request, response) => {
  globalThis.gc();
  response.json('done');
});

const server = app.listen(8080, '0.0.0.0', (error) => {
  if (error) throw error;
  console.log('listening on 8080');
});
// A container's first process gets no default action for a signal.
process.on('SIGTERM', () => {
  server.close();
  redis.disconnect();
  pool.end();
});
