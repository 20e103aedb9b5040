// Answer with a number of each generator of random numbers that programs in Node use; a listener may fail.
//
// The argument is the port. FAIL names a phase and how its listener fails, as in `after hangs`; it may be late.
'use strict';

const crypto = require('node:crypto');
const { createServer } = require('node:http');
const { promisify } = require('node:util');

const said = [];
const begun = Date.now();
let ticks = 0;
setInterval(() => (ticks += 1), 10);

const act = (phase) => () => {
  said.push(phase);
  if (process.env.FAIL === `${phase} throws`) throw new RangeError('no pool');
  return process.env.FAIL === `${phase} hangs` ? new Promise(() => {}) : undefined;
};
process.on('beforeCheckpoint', act('before'));
process.on('afterRestore', act('after'));

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
  const life = { said, ticks: { setInterval: ticks }, milliseconds: Date.now() - begun };
  response.end(JSON.stringify({ ...life, draws: await draw() }));
}).listen(Number(process.argv.at(-1)), '0.0.0.0', () => void draw());
