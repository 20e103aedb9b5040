// Finds objects of the program, of which nobody keeps a list: V8's inspector knows them, without a port or a thread.
'use strict';

const SHARED = Symbol('warmstart.hooks');

// Returns the live objects of this thread that have one of the prototypes; none if this Node has no inspector.
function findInstances(prototypes) {
  if (prototypes.length === 0 || !process.features.inspector) return [];
  const { Session } = require('node:inspector');
  const session = new Session();
  session.connect();
  const shared = { prototypes, found: [] };
  globalThis[SHARED] = shared;
  const name = `globalThis[Object.getOwnPropertySymbols(globalThis).find((each) => each.description === '${SHARED.description}')]`;
  try {
    prototypes.forEach((_, index) => {
      const { result } = ask(session, 'Runtime.evaluate', { expression: `${name}.prototypes[${index}]` });
      const { objects } = ask(session, 'Runtime.queryObjects', { prototypeObjectId: result.objectId });
      const functionDeclaration = `function () { ${name}.found.push(...this); }`;
      ask(session, 'Runtime.callFunctionOn', { objectId: objects.objectId, functionDeclaration });
    });
  } finally {
    delete globalThis[SHARED];
    session.disconnect();
  }
  // A prototype of a derived class has the prototype too.
  return [...new Set(shared.found)].filter((each) => !Object.hasOwn(each, 'constructor'));
}

// The session is in this thread, so it answers before post returns.
function ask(session, method, parameters) {
  let answer;
  session.post(method, parameters, (error, result) => {
    if (error) throw new Error(`${method}: ${error.message}`);
    answer = result;
  });
  return answer;
}

module.exports = { findInstances };
