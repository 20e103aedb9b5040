// Runs a phase in the main thread and in all worker threads at the same time.
//
// Only workers that listen to one of the events are waited for: others may be blocked, in Atomics.wait for example.
'use strict';

const { BroadcastChannel, threadId } = require('node:worker_threads');
const { closePools, openPools } = require('./pools.cjs');
const { prepareThread, renewThread, start: startRenewal } = require('./renew.cjs');

const PHASES = ['beforeCheckpoint', 'afterRestore'];

const channel = new BroadcastChannel('warmstart.hooks');
const listening = new Set(); // in the main thread: the numbers of workers that have to answer
const awaited = new Map(); // in the main thread: number of a worker -> resolves its promise of errors
const running = new Set(); // names of listeners

function startMain() {
  start((number) => forget(number));
  channel.onmessage = ({ data: { listens, ended, answers, errors } }) => {
    if (listens) listening.add(listens);
    if (ended) forget(ended);
    if (answers) awaited.get(answers)?.(errors);
  };
  channel.unref();
}

function startWorker() {
  start((number) => channel.postMessage({ ended: number }));
  channel.onmessage = async ({ data: { phase } }) => {
    if (!phase) return; // of another worker
    channel.ref(); // until the restore: a worker that has closed everything must not end
    if (phase === 'afterRestore') renewThread();
    const errors = await run(phase);
    if (phase === 'afterRestore') channel.unref();
    channel.postMessage({ answers: threadId, errors });
  };
  channel.unref();
  process.on('newListener', (event) => {
    if (PHASES.includes(event)) channel.postMessage({ listens: threadId });
  });
}

function start(onEnd) {
  startRenewal();
  process.on('worker', (worker) => {
    const number = worker.threadId;
    worker.once('exit', () => onEnd(number));
  });
}

function forget(number) {
  listening.delete(number);
  awaited.get(number)?.([]);
}

// Returns the errors of all threads.
async function runAll(phase) {
  const answers = [...listening].map((number) => new Promise((resolve) => awaited.set(number, resolve)));
  // First, because the main thread sets the time zone of the whole process.
  if (phase === 'afterRestore') renewThread();
  channel.postMessage({ phase });
  const errors = await Promise.all([run(phase), ...answers]);
  awaited.clear();
  return errors.flat();
}

// Runs a phase in this thread. The listeners run one after the other; before the checkpoint, the last comes first.
async function run(phase) {
  const listeners = process.rawListeners(phase);
  if (phase === 'beforeCheckpoint') listeners.reverse();
  const errors = [];
  for (const listener of listeners) {
    const name = (listener.listener ?? listener).name || 'anonymous';
    running.add(name);
    try {
      await listener.call(process);
    } catch (error) {
      console.error(error);
      errors.push(`${error?.constructor?.name ?? 'Error'}: ${error?.message ?? error} (callbacks: ${name})`);
    }
    running.delete(name);
  }
  if (phase === 'beforeCheckpoint') {
    prepareThread();
    await runOwn(closePools);
  } else await runOwn(openPools);
  return errors;
}

async function runOwn(step) {
  running.add(step.name);
  await step();
  running.delete(step.name);
}

// Says which listeners a phase waits for.
function pending() {
  const workers = awaited.size > 0 ? ' or of workers' : '';
  return ` (callbacks: ${[...running].join(', ')}${workers})`;
}

module.exports = { pending, runAll, startMain, startWorker };
