"""The build's end of the FIFOs of hooks, with a container that is a directory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmstart.build.hook_channel import HookProcess
from warmstart.build.hook_fifos import HookFifos
from warmstart.core.errors import AppError
from warmstart.recipe.model import Runtime

pytestmark = pytest.mark.linux


class Box:
    """A container with the number 7 in a procfs, and what its agents write."""

    def __init__(self, top: Path) -> None:
        self.proc = top
        self.hooks = top / "7/root/.warmstart/hooks"
        self.hooks.mkdir(parents=True)
        for name in ("reply", "checkpoint"):
            os.mkfifo(self.hooks / name)
        self.channel = HookFifos()

    def say(self, pid: object, event: str, **more: object) -> None:
        self.write(json.dumps({"pid": pid, "event": event, **more}).encode() + b"\n")

    def write(self, data: bytes) -> None:
        fifo = os.open(self.hooks / "reply", os.O_RDWR | os.O_NONBLOCK)
        os.write(fifo, data)
        os.close(fifo)

    def answer(self, *events: tuple[int, str]) -> threading.Thread:
        """Wait for the request, and answer."""

        def wait() -> None:
            os.close(os.open(self.hooks / "checkpoint", os.O_RDONLY))
            for pid, event in events:
                self.say(pid, event, seconds=0.5, phase="beforeCheckpoint", error='x.Y: "no"\x1b')

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def request(self, *running: int, limit_s: float = 20) -> tuple[HookProcess, ...]:
        return self.channel.request(lambda: running, lambda: None, limit_s)


@pytest.fixture
def box(tmp_path) -> Iterator[Box]:
    made = Box(tmp_path)
    made.channel.attach(tmp_path, 7)
    yield made
    made.channel.close()


def test_all_processes_that_registered_and_still_run_must_answer(box):
    for pid, runtime in ((1, "java 17"), (2, "java 17"), (3, "python 3")):
        box.say(pid, "registered", runtime=runtime)
    agent = box.answer((1, "checkpoint"), (3, "checkpoint"))
    assert box.request(1, 3) == (HookProcess(1, "java 17", 0.5), HookProcess(3, "python 3", 0.5))
    agent.join()


def test_without_processes_nobody_is_waited_for(box):
    assert box.request(1, 2) == ()


def test_a_hook_that_fails_is_told_with_class_and_message(box):
    box.say(4, "registered", runtime="java 21")
    agent = box.answer((4, "failed"))
    with pytest.raises(
        AppError, match=r'^the beforeCheckpoint hooks of process 4 \(java 21\) failed: x\.Y: "no"\\x1b$'
    ):
        box.request(4)
    agent.join()


def test_a_process_that_says_nothing_is_named(box, monkeypatch):
    monkeypatch.setattr("warmstart.build.hook_channel.GRACE_S", 0)
    box.say(4, "registered", runtime="java 21")
    with pytest.raises(AppError, match=r"process 4 \(java 21\) did not end within 0.2 s") as caught:
        box.request(4, limit_s=0.2)
    assert "WARMSTART_HOOKS_LIMIT" in caught.value.hint


def test_the_end_of_the_container_ends_the_wait(box):
    def check() -> None:
        raise AppError("ended")

    box.say(4, "registered", runtime="java 21")
    with pytest.raises(AppError, match="ended"):
        box.channel.request(lambda: [4], check, 20)


def test_an_application_asks_for_its_checkpoint(box):
    box.say(4, "ready")
    assert not box.channel.announced()
    box.say(4, "registered", runtime="java 21")
    box.say(4, "ready")
    assert box.channel.announced()
    agent = box.answer((4, "checkpoint"))
    assert [one.asked for one in box.request(4)] == [True]
    agent.join()


@pytest.mark.parametrize(
    "data",
    [
        b"\n\n{}\n[]\n1\nnull\n\xff\xfe\n" + b"[" * 4000 + b"\n",
        b'{"pid": true, "event": "registered"}\n{"pid": "4", "event": "registered"}\n',
        b'{"pid": -1, "event": "registered"}\n',
        b'{"pid": 4, "event": ["registered"]}\n{"pid": 4}\n',
        b"x" * 9000 + b"\n",
        b'{"pid": 4, "event": "checkpoint"}\n',
    ],
)
def test_what_is_no_answer_is_dropped(box, data):
    box.write(data)
    assert not box.channel.announced()
    assert box.request(4) == ()
    box.say(4, "registered", runtime=7)
    agent = box.answer((4, "checkpoint"))
    assert box.request(4) == (HookProcess(4, "", 0.5),)
    agent.join()


@pytest.mark.parametrize("replace", ["link", "file", "directory", "gone"])
def test_a_fifo_that_was_replaced_is_not_opened(box, tmp_path, replace):
    fifo, outside = box.hooks / "checkpoint", tmp_path / "outside"
    outside.write_text("of the host")
    fifo.unlink()
    if replace == "link":
        fifo.symlink_to(outside)
    elif replace == "file":
        fifo.write_text("")
    elif replace == "directory":
        fifo.mkdir()
    box.say(4, "registered", runtime="java 21")
    with pytest.raises(AppError, match=r"/\.warmstart/hooks/checkpoint of the container"):
        box.request(4)


def test_each_runtime_of_a_list_must_have_a_process(box):
    box.say(4, "registered", runtime="java 21.0.1")
    box.channel.require([Runtime.JAVA], [4])
    with pytest.raises(AppError, match="no process of the application has loaded the agent for python"):
        box.channel.require([Runtime.JAVA, Runtime.PYTHON], [4])
    with pytest.raises(AppError, match="for java"):
        box.channel.require([Runtime.JAVA], [5])
