// Empties the pools of connections that the program keeps, before the checkpoint and after the program's listeners. Their
// other ends will not be there after a restore. Pools connect again when they are asked for a connection.
'use strict';

const { EventEmitter, once } = require('node:events');
const { findInstances } = require('./heap.cjs');

const CONNECT_MS = 1000;

// Kept, because tests of programs replace it.
const { setTimeout } = globalThis;

let disconnected = []; // clients that have one connection, and are to have it again

// Connections in use are the program's.
async function closePools() {
  const redis = loadedClasses(/\/ioredis\/built\/(cluster\/index|Redis)\.js$/);
  const found = findInstances([EventEmitter.prototype, ...redis.map((each) => each.prototype)]);
  const results = await Promise.allSettled(found.map((each) => closeConnections(each, redis)));
  // A pool of a future release may be unlike those that are known. Its connections stay open then.
  results.filter(({ status }) => status === 'rejected').forEach(({ reason }) => console.error(reason));
}

async function closeConnections(emitter, redis) {
  if (emitter.freeSockets && emitter.requests) await closeFreeSockets(emitter);
  else if (Array.isArray(emitter._idle) && typeof emitter.idleCount === 'number') await closePgPool(emitter);
  else if (redis.some((each) => emitter instanceof each)) await disconnectRedis(emitter);
  else await closeUndiciAgent(emitter);
}

// Clients of Redis connect when they are asked for something, but those that wait for messages never ask. It is not
// awaited for long: a server that is not there yet is the program's to wait for.
async function openPools() {
  const clients = disconnected.filter(({ status }) => status === 'wait');
  disconnected = [];
  if (clients.length === 0) return;
  const connected = clients.map((client) => client.connect().catch(() => {}));
  await Promise.race([Promise.all(connected), new Promise((resolve) => setTimeout(resolve, CONNECT_MS))]);
}

function loadedClasses(pattern) {
  const modules = Object.entries(require.cache).filter(([path]) => pattern.test(path));
  return modules.map(([, { exports }]) => exports.default).filter((each) => typeof each === 'function');
}

// http.Agent
async function closeFreeSockets(agent) {
  const sockets = Object.values(agent.freeSockets).flat();
  await Promise.all(
    sockets.map((socket) => {
      const closed = once(socket, 'close');
      socket.destroy();
      return closed;
    }),
  );
}

// pg has no method for it. A client that is released with `true` is closed.
async function closePgPool(pool) {
  while (pool.idleCount > 0) {
    const client = await pool.connect();
    const ended = once(client, 'end');
    client.release(true);
    await ended;
  }
}

// A client of ioredis, or one of a cluster: with the status 'wait', it connects when a command comes.
async function disconnectRedis(client) {
  if (!['connect', 'connecting', 'ready'].includes(client.status)) return;
  const ended = once(client, 'end');
  client.disconnect();
  await ended;
  client.setStatus('wait');
  disconnected.push(client);
}

// An Agent of undici, such as that of fetch, has a pool for each origin, and makes a new one if it has none. There is no
// public way to them.
async function closeUndiciAgent(agent) {
  const key = Object.getOwnPropertySymbols(agent).find(({ description }) => description === 'clients');
  const pools = key && agent[key];
  if (!(pools instanceof Map)) return;
  const entries = [...pools.values()];
  pools.clear();
  // undici 5 keeps weak references, 6 the pools, 7 the pools with a count.
  const found = entries.map((entry) => entry?.deref?.() ?? entry?.dispatcher ?? entry);
  await Promise.all(found.map((pool) => pool?.close?.()));
}

module.exports = { closePools, openPools };
