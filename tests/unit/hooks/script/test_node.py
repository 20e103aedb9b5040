"""Node's hooks, in the machine's Node and in those of $WARMSTART_NODES, separated by colons."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.hooks import SOURCES, TIMEOUT_S, Hooks, await_closed

pytestmark = pytest.mark.linux

NODES = [each for each in (shutil.which("node"), *os.environ.get("WARMSTART_NODES", "").split(":")) if each]
needs_node = pytest.mark.skipif(not NODES, reason="no node")
READY = "\nconsole.log('ready');\n"
FOREVER = "\nsetInterval(() => {}, 1000);\n" + READY


@pytest.fixture
def start(hooks: Hooks, tmp_path: Path, gcc: str):
    """Start a program in Node, as a build does."""
    subprocess.run([SOURCES / "node/build.sh", hooks.directory / "node"], check=True)

    def start_one(code: str, node: str = "", name: str = "app.cjs", **environment: str) -> subprocess.Popen[str]:
        (tmp_path / name).write_text(code)
        options = f"--require {hooks.directory}/node/hooks.cjs"
        return hooks.start([node or NODES[0], tmp_path / name], {"NODE_OPTIONS": options, **environment})

    return start_one


def checkpoint(hooks: Hooks, program: subprocess.Popen[str]) -> dict[str, Any]:
    """Request the checkpoint of a program that has just been started, and return its answer."""
    (registered,) = hooks.events(1)
    assert (registered["pid"], registered["event"]) == (program.pid, "registered")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    (answer,) = hooks.request_checkpoint()
    return answer


def output(program: subprocess.Popen[str]) -> list[str]:
    """Wait for the program's end, and return the lines of its output."""
    assert program.stdout is not None
    out = program.stdout.read()  # `communicate` loses lines that `readline` has read ahead
    _, errors = program.communicate(timeout=TIMEOUT_S)
    assert (program.returncode, errors) == (0, ""), errors
    return out.splitlines()


LIFE_CYCLE = """
import fs from 'node:fs';
import http from 'node:http';
import { Worker } from 'node:worker_threads';
import { setTimeout as sleep } from 'node:timers/promises';

const server = http.createServer((request, response) => response.end('ok'));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${server.address().port}/`;
const agent = new http.Agent({ keepAlive: true });
http.globalAgent = agent;
const get = () => new Promise((resolve) => http.get(url, (response) => response.resume().on('end', resolve)));
const ask = async () => { await (await fetch(url)).text(); await get(); };
const connections = () => new Promise((resolve) => server.getConnections((error, count) => resolve(count)));
await ask();

process.on('beforeCheckpoint', async () => {
  await sleep(20);
  console.log('first', await connections());
});
process.once('beforeCheckpoint', () => console.log('second'));
process.on('afterRestore', async () => {
  console.log('restored', await connections());
  await ask();
});
const worker = new Worker(`
  process.on('beforeCheckpoint', async () => console.log('in a worker'));
  process.on('afterRestore', () => console.log('in a worker again'));
  setTimeout(() => console.log('ready'), 100);
  setInterval(() => {}, 1000);
`, { eval: true });
setInterval(() => fs.existsSync(process.env.END) && process.exit(), 10);
"""


@needs_node
@pytest.mark.parametrize("node", NODES)
def test_listeners_are_awaited_in_all_threads_and_idle_connections_closed(hooks, start, tmp_path, node):
    program = start(LIFE_CYCLE, node, "app.mjs", END=str(tmp_path / "end"))
    answer = checkpoint(hooks, program)
    assert answer["event"] == "checkpoint", answer
    hooks.move_elsewhere(program.pid)
    assert hooks.events(1)[0]["event"] == "restored"
    (tmp_path / "end").touch()
    lines = output(program)
    assert [line for line in lines if "worker" not in line] == ["second", "first 2", "restored 0"]
    assert [line for line in lines if "worker" in line] == ["in a worker", "in a worker again"]


@needs_node
def test_a_program_that_has_closed_everything_waits_for_the_restore(hooks, start):
    program = start(
        """
        const server = require('http').createServer().listen(0);
        process.on('beforeCheckpoint', () => server.close());
        process.on('afterRestore', () => console.log('restored'));
    """
        + READY
    )
    assert checkpoint(hooks, program)["event"] == "checkpoint"
    time.sleep(0.3)
    assert program.poll() is None
    hooks.move_elsewhere(program.pid)
    assert hooks.events(1)[0]["event"] == "restored"
    assert output(program) == ["restored"]


@needs_node
def test_it_does_not_keep_a_program_from_its_end(start):
    assert output(start("console.log(process.listenerCount('beforeCheckpoint'))")) == ["0"]


@needs_node
def test_a_checkpoint_that_is_given_up_can_be_requested_again(hooks, start):
    program = start(FOREVER)
    assert checkpoint(hooks, program)["event"] == "checkpoint"
    assert hooks.give_up()[0]["event"] == "restored"
    assert hooks.request_checkpoint()[0]["event"] == "checkpoint"


@needs_node
def test_nothing_is_open_while_it_waits(hooks, start):
    program = start(FOREVER)
    checkpoint(hooks, program)
    await_closed(program.pid, hooks.directory)


@needs_node
def test_a_worker_that_does_not_listen_is_not_awaited(hooks, start):
    program = start(
        """
        const { Worker } = require('worker_threads');
        new Worker('Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60000)', { eval: true });
    """
        + READY
    )
    assert checkpoint(hooks, program)["event"] == "checkpoint"


@needs_node
def test_a_worker_that_has_ended_is_not_awaited(hooks, start):
    program = start(
        """
        const { Worker } = require('worker_threads');
        new Worker("process.on('beforeCheckpoint', () => {}); process.exit()", { eval: true });
    """
        + FOREVER
    )
    assert checkpoint(hooks, program)["event"] == "checkpoint"


@needs_node
def test_each_worker_of_a_cluster_has_an_agent(hooks, start):
    program = start("""
        const cluster = require('cluster');
        if (cluster.isPrimary) [cluster.fork(), cluster.fork()];
        else require('http').createServer().listen(0);
    """)
    pids = {event["pid"] for event in hooks.events(3)}
    assert program.pid in pids
    assert {event["pid"] for event in hooks.request_checkpoint(3)} == pids


@needs_node
def test_all_listeners_are_called_and_errors_are_named(hooks, start):
    program = start(
        """
        process.on('beforeCheckpoint', function early() { console.log('called'); });
        process.on('beforeCheckpoint', async function broken() { throw new TypeError('no pool'); });
    """
        + FOREVER
    )
    answer = checkpoint(hooks, program)
    error = "TypeError: no pool (callbacks: broken)"
    assert answer == {"pid": program.pid, "event": "failed", "phase": "beforeCheckpoint", "error": error}
    program.kill()
    out, errors = program.communicate()
    assert out == "called\n"
    assert "TypeError: no pool" in errors


# Before the checkpoint, the agent has more time.
SOON_LATE = "process.on('beforeCheckpoint', () => { process.env.WARMSTART_HOOKS_LIMIT = '2'; });"


@needs_node
@pytest.mark.parametrize(
    ("listener", "error"),
    [
        ("function f() { throw new RangeError('a\\nb'); }", "RangeError: a\nb (callbacks: f)"),
        (SOON_LATE + "function f() { return new Promise(() => {}); }", "not done within 2 s (callbacks: f)"),
    ],
    ids=["throws", "hangs"],
)
def test_a_process_whose_listener_fails_after_a_restore_ends(hooks, start, listener, error):
    program = start(f"{listener}; process.on('afterRestore', f);" + FOREVER)
    checkpoint(hooks, program)
    hooks.move_elsewhere(program.pid)
    assert hooks.events(1) == [{"pid": program.pid, "event": "failed", "phase": "afterRestore", "error": error}]
    _, errors = program.communicate(timeout=TIMEOUT_S)
    assert program.returncode == 70
    assert f"warmstart: after-restore hook failed: {error}\n" in errors


# Workers set no time zone: they must wait for the main thread.
SLOW = """
const slow = () => {
  const { isMainThread } = require('node:worker_threads');
  if (isMainThread) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
};
"""
RENEWED = """
const { Worker, isMainThread } = require('worker_threads');
const { random } = Math; // kept by modules
let values = [];
process.on('afterRestore', () => {
  const names = ['LATE', 'OTHER', 'GONE', 'SET', 'NEW', 'TZ'];
  const env = names.map((name) => `${name}=${process.env[name]}`).join(' ');
  values = Array.from({ length: 10000 }, random);
  const mean = values.reduce((sum, value) => sum + value) / values.length;
  const ok = values.every((value) => value >= 0 && value < 1) && Math.abs(mean - 0.5) < 0.05;
  console.log(env, ok, Math.random === random, new Date(0).getTimezoneOffset());
});
if (isMainThread) new Worker(__filename);
else setTimeout(() => console.log('ready'), 100);
process.env.SET = 'by the program';
const timer = setInterval(() => {}, 1000);
process.on('afterRestore', () => clearInterval(timer));
"""


@needs_node
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ("", "LATE=build OTHER=build GONE=build SET=by the program NEW=undefined TZ=UTC true true 0"),
        ("LATE,GONE,TZ", "LATE=pod OTHER=build GONE=undefined SET=by the program NEW=undefined TZ=EST5 true true 300"),
        ("*", "LATE=pod OTHER=pod GONE=undefined SET=by the program NEW=pod TZ=EST5 true true 300"),
    ],
    ids=["none", "some", "all"],
)
def test_environment_and_generators_are_renewed_in_all_threads(hooks, start, tmp_path, node, late, expected):
    renew = hooks.directory / "node/renew.cjs"
    text = renew.read_text().replace("'/.warmstart/env'", repr(str(tmp_path / "env")))
    renew.write_text(text.replace("fs.readFileSync(ENVIRONMENT", "(slow(), fs).readFileSync(ENVIRONMENT") + SLOW)
    (tmp_path / "env").write_bytes(b"LATE=pod\0OTHER=pod\0NEW=pod\0SET=pod\0TZ=EST5\0")
    build = dict.fromkeys(("LATE", "OTHER", "GONE", "SET"), "build")
    program = start(RENEWED, node, WARMSTART_HOOKS_LATE=late, TZ="UTC", **build)
    assert checkpoint(hooks, program)["event"] == "checkpoint"
    hooks.move_elsewhere(program.pid)
    assert output(program) == [expected, expected]


NAMESERVERS = (
    FOREVER
    + """
const dns = require('dns');
if (process.env.OWN) dns.setServers(['9.9.9.9']);
else dns.getServers();
process.on('afterRestore', () => { console.log(dns.getServers().join()); process.exit(); });
"""
)


@needs_node
@pytest.mark.parametrize(("own", "expected"), [("", "10.0.0.2,fd00::2"), ("yes", "9.9.9.9")], ids=["system's", "own"])
def test_names_are_resolved_by_the_new_servers(hooks, start, tmp_path, own, expected):
    renew = hooks.directory / "node/renew.cjs"
    renew.write_text(renew.read_text().replace("'/etc/resolv.conf'", "process.env.RESOLV_CONF"))
    (tmp_path / "resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
    program = start(NAMESERVERS, RESOLV_CONF=str(tmp_path / "resolv.conf"), OWN=own)
    checkpoint(hooks, program)
    (tmp_path / "resolv.conf").write_text("# of the pod\nnameserver 10.0.0.2\nnameserver fd00::2\nsearch svc\n")
    hooks.move_elsewhere(program.pid)
    assert output(program) == [expected]


@needs_node
@pytest.mark.parametrize("node", NODES)
def test_elsewhere_than_in_a_build_nothing_is_started(hooks, start, node):
    (hooks.directory / "checkpoint").unlink()
    code = "console.log(Math.random.toString(), Object.keys(require.cache).filter((each) => each.includes('hooks')))"
    native, *loaded = output(start(code, node))
    assert "[native code]" in native
    assert "hooks.cjs" in "".join([native, *loaded])
    assert "agent.cjs" not in "".join([native, *loaded])
