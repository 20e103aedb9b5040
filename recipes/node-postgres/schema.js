// Creates the table of links, before the service starts.
'use strict';

const { Client } = require('pg');
const database = require('./database');

async function main() {
  const client = new Client(database);
  await client.connect();
  await client.query('CREATE TABLE IF NOT EXISTS link (code text PRIMARY KEY, url text NOT NULL)');
  await client.end();
}

main();
