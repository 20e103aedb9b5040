// What is renewed in each replica without the program's help. Only what is loaded already is touched.
'use strict';

const fs = require('node:fs');

const ENVIRONMENT = '/.warmstart/env';
const RESOLV_CONF = '/etc/resolv.conf';
const RESEED = `${__dirname}/reseed.node`;
const CACHED_UUIDS = 128; // kBatchSize in Node's lib/internal/crypto/random.js
const CACHED_INTEGERS = 1024; // 6 KiB of 6 bytes each, ibidem

const initialEnv = { ...process.env };
let hasSystemNameservers = false;
let draw = Math.random;

// Makes Math.random replaceable, also for modules that keep a reference to it.
function start() {
  const random = { random: () => draw() }.random;
  Object.defineProperty(Math, 'random', { value: random, writable: true, configurable: true, enumerable: false });
}

// Before the checkpoint, in each thread.
function prepareThread() {
  const system = systemNameservers();
  hasSystemNameservers = isLoaded('dns') && sameSet(require('node:dns').getServers(), system);
}

// After a restore, in each thread: each has its own environment, Math and caches.
function renewThread() {
  renewEnv();
  draw = makeRandom();
  dropCachedRandom();
  renewNameservers();
}

function isLoaded(name) {
  return process.moduleLoadList.includes(`NativeModule ${name}`);
}

// OpenSSL has no notion of a restore, and Node has no function that makes it seed its generator again.
function reseedOpenssl() {
  try {
    process.dlopen({ exports: {} }, RESEED);
  } catch (error) {
    process.stderr.write(`warmstart: cannot seed OpenSSL's random generator again: ${error.message}\n`);
  }
}

function entropy(bytes) {
  const file = fs.openSync('/dev/urandom');
  try {
    const buffer = Buffer.alloc(bytes);
    fs.readSync(file, buffer);
    return buffer;
  } finally {
    fs.closeSync(file);
  }
}

// V8 offers no way to seed Math.random again, so another generator takes its place: xoshiro128**.
function makeRandom() {
  const seed = entropy(16);
  let [a, b, c, d] = [0, 4, 8, 12].map((offset) => seed.readInt32LE(offset));
  const next = () => {
    const product = Math.imul(b, 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = (d << 11) | (d >>> 21);
    return result;
  };
  return () => ((next() >>> 5) * 0x4000000 + (next() >>> 6)) / 0x20000000000000;
}

// crypto.randomUUID and crypto.randomInt draw in advance.
function dropCachedRandom() {
  if (!isLoaded('internal/crypto/random')) return;
  const { randomInt, randomUUID } = require('node:crypto');
  for (let count = 0; count < CACHED_UUIDS; count += 1) randomUUID();
  for (let count = 0; count < CACHED_INTEGERS; count += 1) randomInt(2);
}

function renewEnv() {
  const now = readEnv();
  if (now === undefined) return;
  let late = (process.env.WARMSTART_HOOKS_LATE ?? '').split(',').filter(Boolean);
  if (late.includes('*')) {
    // A variable that the program has set itself keeps its value.
    late = Object.keys({ ...initialEnv, ...now }).filter((name) => process.env[name] === initialEnv[name]);
  }
  for (const name of late) {
    if (name in now) process.env[name] = now[name];
    else delete process.env[name];
  }
}

function readEnv() {
  let content;
  try {
    content = fs.readFileSync(ENVIRONMENT, 'utf8');
  } catch {
    return undefined;
  }
  const variables = content.split('\0').filter((each) => each.includes('='));
  if (variables.length === 0) return undefined; // restored by a runtime, which does not tell
  return Object.fromEntries(variables.map((each) => [each.slice(0, each.indexOf('=')), each.slice(each.indexOf('=') + 1)]));
}

// dns.resolve asks the servers that resolv.conf named at its first use. Servers that the program chose stay.
function renewNameservers() {
  const servers = systemNameservers();
  if (hasSystemNameservers && servers.length > 0) require('node:dns').setServers(servers);
}

function systemNameservers() {
  try {
    const lines = fs.readFileSync(RESOLV_CONF, 'utf8').split('\n');
    return lines.flatMap((line) => /^nameserver\s+(\S+)/.exec(line)?.[1] ?? []);
  } catch {
    return [];
  }
}

function sameSet(some, others) {
  return some.length === others.length && some.every((each) => others.includes(each));
}

module.exports = { prepareThread, renewThread, reseedOpenssl, start };
