// How to connect to PostgreSQL.
'use strict';

const { readFile } = require('node:fs/promises');

module.exports = {
  host: process.env.DB_HOST ?? 'localhost',
  database: 'links',
  user: 'links',
  // Called for each new connection: the mounted password may have changed.
  password: async () => (await readFile('/etc/links/password', 'utf8')).trim(),
  connectionTimeoutMillis: 3000,
};
