// A link shortener kept in memory.
'use strict';

const { createHash, randomUUID } = require('node:crypto');
const { crc32 } = require('node:zlib');
const express = require('express');

const BLOCK_BYTES = 8192;
const instanceId = randomUUID();
const startedAt = new Date().toISOString();
const links = new Map();
let requests = 0;

// Ballast that stands for the heap of a bigger service; what a block holds follows from its number.
const block = (number) => createHash('sha256').update(String(number)).digest('hex').repeat(BLOCK_BYTES / 64);
const blocksIn = (sizeMb) => (sizeMb * 1024 * 1024) / BLOCK_BYTES;
const hex = (checksum) => checksum.toString(16).padStart(8, '0');
const liveData = Array.from({ length: blocksIn(Number(process.env.LIVE_DATA_SIZE_MB ?? 0)) }, (_, number) => {
  const text = block(number);
  return { text, checksum: crc32(text) };
});

const app = express();
app.disable('x-powered-by');
app.use(express.json());

app.get('/healthz', (request, response) => response.json('ok'));

app.use((request, response, next) => {
  requests += 1;
  next();
});

// Tells which process answers: a restored one goes on with its id, start time and counts.
app.get('/state', (request, response) => {
  const { heapUsed } = process.memoryUsage();
  response.json({ instanceId, startedAt, requests, links: links.size, heapUsedBytes: heapUsed });
});

app.post('/links', (request, response) => {
  const { url } = request.body ?? {};
  if (!URL.canParse(url)) {
    response.status(400).json({ error: 'url must be an absolute URL' });
    return;
  }
  const code = createHash('sha256').update(url).digest('base64url').slice(0, 8);
  const link = links.get(code) ?? { code, url, followed: 0 };
  links.set(code, link);
  response.status(201).json(link);
});

app.get('/links/:code', (request, response) => {
  const link = links.get(request.params.code);
  if (link) response.json(link);
  else response.status(404).json({ error: `no link ${request.params.code}` });
});

app.get('/to/:code', (request, response) => {
  const link = links.get(request.params.code);
  if (!link) {
    response.status(404).json({ error: `no link ${request.params.code}` });
    return;
  }
  link.followed += 1;
  response.redirect(302, link.url);
});

// Reads every block and compares it with the checksum it had at start-up.
app.get('/live-data/checksum', (request, response) => {
  let whole = 0;
  let corrupt = 0;
  for (const { text, checksum } of liveData) {
    whole = crc32(text, whole);
    if (crc32(text) !== checksum) corrupt += 1;
  }
  response.json({ blocks: liveData.length, corrupt, checksum: hex(whole) });
});

// Allocates and drops so many mebibytes, checking that fresh memory is zero: what is given back is used again.
app.post('/live-data/churn', (request, response) => {
  const sizeMb = Number(request.query.mb);
  if (!Number.isInteger(sizeMb) || sizeMb < 1 || sizeMb > 65536) {
    response.status(400).json({ error: 'mb must be from 1 to 65536' });
    return;
  }
  let whole = 0;
  let corrupt = 0;
  for (let number = 0; number < blocksIn(sizeMb); number += 1) {
    const fresh = new Uint8Array(BLOCK_BYTES);
    if (fresh.some((each) => each !== 0)) corrupt += 1;
    whole = crc32(block(number), whole);
  }
  response.json({ blocks: blocksIn(sizeMb), corrupt, checksum: hex(whole) });
});

// Collects garbage; needs node --expose-gc.
app.get('/collect', (request, response) => {
  const before = process.memoryUsage().heapTotal;
  globalThis.gc();
  response.json({ heapTotalBytes: [before, process.memoryUsage().heapTotal] });
});

const server = app.listen(8080, '0.0.0.0', (error) => {
  if (error) throw error;
  console.log('listening on 8080');
});
// A container's first process gets no default action for a signal.
process.on('SIGTERM', () => server.close());
