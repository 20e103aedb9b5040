// Closes connections that the program keeps for the next request, and whose other end will not be there.
'use strict';

const { once } = require('node:events');

const UNDICI_DISPATCHER = Symbol.for('undici.globalDispatcher.1');

// Closes the idle connections of http.globalAgent, https.globalAgent, and undici's global dispatcher, which is that of
// fetch. Other agents are the program's own.
async function closeIdleSockets() {
  await Promise.all([...globalAgents().map(closeFreeSockets), closePools(globalThis[UNDICI_DISPATCHER])]);
}

function globalAgents() {
  const loaded = ['http', 'https'].filter((name) => process.moduleLoadList.includes(`NativeModule ${name}`));
  return loaded.map((name) => require(`node:${name}`).globalAgent);
}

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

// An Agent of undici has a pool for each origin, and makes a new one if it has none. There is no public way to them.
async function closePools(agent) {
  const key = agent && Object.getOwnPropertySymbols(agent).find(({ description }) => description === 'clients');
  const pools = key && agent[key];
  if (!(pools instanceof Map)) return;
  const entries = [...pools.values()];
  pools.clear();
  // undici 5 keeps weak references, 6 the pools, 7 the pools with a count.
  const found = entries.map((entry) => entry?.deref?.() ?? entry?.dispatcher ?? entry);
  await Promise.all(found.map((pool) => pool?.close?.()));
}

module.exports = { closeIdleSockets };
