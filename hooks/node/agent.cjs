// The agent of a process, in its main thread: waits for the checkpoint, and after it for the restore. docs/hooks.md
// has the protocol. It does not keep a program from ending, and has nothing open when the process is checkpointed.
'use strict';

const fs = require('node:fs');
const { O_RDONLY, O_RDWR, O_NONBLOCK } = fs.constants;
const { performance } = require('node:perf_hooks');
const { reseedOpenssl } = require('./renew.cjs');
const threads = require('./threads.cjs');

const EXIT_FAILED = 70;
const POLL_MS = 10;
const GIVEN_UP_POLL_MS = 1000;
const MAX_ERROR_CHARACTERS = 600; // a line of 4096 bytes is written at once, with every character escaped

// Kept, because tests of programs replace them.
const { setInterval, setTimeout, clearInterval, clearTimeout } = globalThis;

let directory;

function start(hooks) {
  directory = hooks;
  threads.startMain();
  reply({ event: 'registered', runtime: `node ${process.versions.node}` });
  awaitCheckpoint();
}

function awaitCheckpoint() {
  const fifo = openFifo('checkpoint');
  if (fifo === undefined) return; // not the build any more
  const timer = setInterval(() => {
    if (!hasWriter(fifo)) return;
    clearInterval(timer);
    fs.closeSync(fifo);
    void runBeforeCheckpoint();
  }, POLL_MS).unref();
}

async function runBeforeCheckpoint() {
  const answer = await runPhase('beforeCheckpoint', 'checkpoint');
  reseedOpenssl(); // so that it is loaded when it is needed
  reply(answer);
  awaitRestore();
}

function awaitRestore() {
  let looked = performance.now();
  // Not unref'ed: a program that has closed everything for the checkpoint must not end.
  const timer = setInterval(() => {
    const elsewhere = !fs.existsSync(`${directory}/restored`);
    // The file is seldom opened: if it were open in the moment of the checkpoint, the restore would look for it.
    const look = performance.now() - looked > GIVEN_UP_POLL_MS;
    if (look) looked = performance.now();
    if (!elsewhere && !(look && isGivenUp())) return;
    clearInterval(timer);
    void runAfterRestore(elsewhere);
  }, POLL_MS);
}

async function runAfterRestore(elsewhere) {
  reseedOpenssl();
  const answer = await runPhase('afterRestore', 'restored');
  reply(answer);
  if (!elsewhere) awaitCheckpoint();
  else if (answer.event === 'failed') {
    process.stderr.write(`warmstart: after-restore hook failed: ${answer.error}\n`);
    process.exit(EXIT_FAILED);
  }
}

// Runs the listeners of a phase in all threads, and returns the line that answers the build.
async function runPhase(phase, event) {
  const started = performance.now();
  const limitS = Number(process.env.WARMSTART_HOOKS_LIMIT) || 30;
  let timer;
  const limit = new Promise((resolve) => {
    timer = setTimeout(() => resolve([`not done within ${limitS} s${threads.pending()}`]), limitS * 1000);
  });
  const errors = await Promise.race([threads.runAll(phase), limit]);
  clearTimeout(timer);
  if (errors.length > 0) return { event: 'failed', phase, error: errors.join('; ').slice(0, MAX_ERROR_CHARACTERS) };
  return { event, seconds: Math.round((performance.now() - started) * 10) / 1e4 };
}

function openFifo(name) {
  try {
    return fs.openSync(`${directory}/${name}`, O_RDONLY | O_NONBLOCK);
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function hasWriter(fifo) {
  try {
    fs.readSync(fifo, Buffer.alloc(1));
  } catch (error) {
    if (error.code === 'EAGAIN') return true;
    throw error;
  }
  return false;
}

function isGivenUp() {
  const fifo = openFifo('restored');
  if (fifo === undefined) return false;
  try {
    return hasWriter(fifo);
  } finally {
    fs.closeSync(fifo);
  }
}

function reply(line) {
  try {
    const fifo = fs.openSync(`${directory}/reply`, O_RDWR | O_NONBLOCK);
    try {
      fs.writeSync(fifo, `${JSON.stringify({ pid: process.pid, ...line })}\n`);
    } finally {
      fs.closeSync(fifo);
    }
  } catch (error) {
    // Nobody wants to know, or nobody reads.
    if (!['ENOENT', 'ENXIO', 'EACCES', 'EAGAIN'].includes(error.code)) throw error;
  }
}

module.exports = { start };
