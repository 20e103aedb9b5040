#!/usr/bin/env python3
"""Show which sockets an application has at its checkpoint with the Java agent, and whether it answers afterwards.

    PYTHONPATH=tests benchmarks/hooks_cycle.py AGENT_JAR PORT [JAVA_ARGUMENT]...

The application runs on this machine, and its restore is simulated: it is stopped for a second, the FIFOs are removed,
it goes on. AGENT_JAR is the result of hooks/java/build.sh. The application must answer GET / on PORT.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import click
from support.java_agent import HooksDirectory, run_java

LIMIT_S = 60.0
LISTENING, ESTABLISHED = "0A", "01"


def wait_answer(port: int) -> float:
    """Return the milliseconds until the application answers."""
    begin = time.monotonic()
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                answer.read()
            return (time.monotonic() - begin) * 1000
        except URLError:
            if time.monotonic() - begin > LIMIT_S:
                raise
            time.sleep(0.002)


def count_sockets(pid: int) -> dict[str, int]:
    """Count the TCP sockets of a process that listen, and those that are connected."""
    own = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            own.add(str(descriptor.readlink()).removeprefix("socket:[").rstrip("]"))
    states = []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
        states += [row[3] for row in rows if row[9] in own]
    return {"listening": states.count(LISTENING), "connected": states.count(ESTABLISHED)}


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("agent", type=click.Path(path_type=Path, exists=True))
@click.argument("port", type=int)
@click.argument("arguments", nargs=-1, required=True)
def main(agent: Path, port: int, arguments: tuple[str, ...]) -> None:
    """Run `java ARGUMENT...` with AGENT through one checkpoint and restore."""
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(HooksDirectory(Path(directory))) as hooks,
        run_java(arguments, agent.resolve(), hooks.path) as jvm,
    ):
        click.echo(f"runtime: {hooks.message('registered')['runtime']}")
        wait_answer(port)
        click.echo(f"running: {count_sockets(jvm.pid)}")
        hooks.request_checkpoint()
        before = hooks.message("checkpoint")
        click.echo(f"at the checkpoint: {count_sockets(jvm.pid)}, after {before['seconds'] * 1000:.0f} ms")
        hooks.restore(jvm.pid, 1)
        after = hooks.message("restored")
        click.echo(f"restored: {count_sockets(jvm.pid)}, after {after['seconds'] * 1000:.0f} ms")
        click.echo(f"first answer: {wait_answer(port):.0f} ms")


if __name__ == "__main__":
    main()
