// Fills memory, gives it back, and takes memory again; see reuse.c. Usage: node --expose-gc reuse.js PREFIX
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const { Worker, isMainThread } = require('worker_threads');

const prefix = process.argv[2];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (text) => fs.writeSync(1, text + '\n');
const waitFor = async (step) => { while (!fs.existsSync(`${prefix}.${step}`)) await sleep(10); };

function fill() {
  const kept = { objects: [], buffers: [], map: new Map() };
  for (let i = 0; i < 60000; i++) {
    kept.objects.push({ number: i, text: 'text ' + i, list: [i, i + 1, { deep: i * 0.5 }] });
    kept.map.set('key' + i, i);
  }
  for (let i = 0; i < 300; i++) kept.buffers.push(Buffer.alloc(1000 * (i % 100 + 1), i % 255 + 1));
  return kept;
}

function digest(kept) {
  const hash = crypto.createHash('sha256');
  hash.update(JSON.stringify(kept.objects));
  hash.update(JSON.stringify([...kept.map]));
  for (const buffer of kept.buffers) hash.update(buffer);
  return hash.digest('hex');
}

function checkZeros() {
  const garbage = [];
  for (let size = 1; size < 3000000; size = Math.ceil(size * 1.3) + 1) {
    for (const made of [Buffer.alloc(size), new Uint8Array(size), new Float64Array(size >> 3), new ArrayBuffer(size)]) {
      const bytes = new Uint8Array(made.buffer || made, made.byteOffset || 0, made.byteLength);
      if (bytes.some((each) => each !== 0)) { say('WRONG no zeros ' + size); process.exit(1); }
      bytes.fill(255);
      garbage.push(made);
    }
    if (size < 300000 && new Array(size).fill().some((each) => each !== undefined)) { say('WRONG array'); process.exit(1); }
  }
  const memory = new WebAssembly.Memory({ initial: 10, maximum: 100 });
  new Uint8Array(memory.buffer).fill(255);
  memory.grow(50);
  if (new Uint8Array(memory.buffer, 10 << 16).some((each) => each !== 0)) { say('WRONG WebAssembly'); process.exit(1); }
}

function churn() {
  let list = [];
  for (let i = 0; i < 300000; i++) {
    list.push({ a: i, b: [i], c: '' + i });
    if (list.length > 50000) list = list.slice(25000);
  }
  return list.every((each) => each.a === each.b[0] && each.c === '' + each.a && each.d === undefined);
}

async function main() {
  const kept = fill();
  let dropped = [fill(), fill()];
  const resizable = new ArrayBuffer(8 << 20, { maxByteLength: 16 << 20 });
  new Uint8Array(resizable).fill(7);
  const known = digest(kept);
  const collected = dropped.map(digest);
  churn();
  await sleep(200);
  say('ready');
  await waitFor('touch');
  if (digest(kept) !== known || digest(dropped[1]) !== collected[1]) say('WRONG what was kept, at first');
  say('touched');
  await waitFor('free');
  dropped = null;
  resizable.resize(0);
  for (let i = 0; i < 5; i++) { gc(); await sleep(50); }
  gc({ type: 'major', execution: 'sync', flavor: 'last-resort' });
  await sleep(200);
  say('freed');
  await waitFor('reuse');
  resizable.resize(8 << 20);
  if (new Uint8Array(resizable).some((each) => each !== 0)) { say('WRONG resizable buffer'); process.exit(1); }
  for (let i = 0; i < 3; i++) {
    checkZeros();
    if (!churn()) say('WRONG objects');
    gc();
    await sleep(50);
  }
  await new Promise((resolve) => new Worker(__filename, { argv: [prefix] }).on('exit', resolve));
  say(digest(kept) === known ? 'fine' : 'WRONG what was kept');
  setInterval(() => {}, 1000);
}

if (isMainThread) main(); else { checkZeros(); churn(); }
