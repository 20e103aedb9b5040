// Node loads this before the program, by NODE_OPTIONS=--require: runtime hooks, during a build only.
'use strict';

const { WARMSTART_HOOKS: directory } = process.env;
// Only the container of a build has it.
if (directory && require('node:fs').existsSync(`${directory}/checkpoint`)) {
  const { isMainThread } = require('node:worker_threads');
  if (isMainThread) require('./agent.cjs').start(directory);
  else require('./threads.cjs').startWorker();
}
