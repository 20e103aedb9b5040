// Answer /draws with a number of each generator of random numbers that programs in Node use.
'use strict';

const crypto = require('node:crypto');
const { createServer } = require('node:http');
const { promisify } = require('node:util');

const draw = async () => ({
  'Math.random': Math.random(),
  'crypto.randomUUID': crypto.randomUUID(),
  'crypto.randomInt': crypto.randomInt(2 ** 47),
  'crypto.randomBytes': crypto.randomBytes(8).toString('hex'),
  'crypto.randomBytes in a thread': (await promisify(crypto.randomBytes)(8)).toString('hex'),
  'crypto.getRandomValues': Buffer.from(crypto.webcrypto.getRandomValues(new Uint8Array(8))).toString('hex'),
});

createServer(async (request, response) => {
  response.setHeader('Connection', 'close');
  response.end(JSON.stringify(await draw()));
}).listen(8080, '0.0.0.0');
