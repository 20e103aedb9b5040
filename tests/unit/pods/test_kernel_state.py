"""The kernel state of a container on a node is read from the output of a helper pod."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import traits
from support.running_python import running_python

from warmstart.core.errors import ClusterError
from warmstart.core.progress import Progress, SilentListener
from warmstart.dump.state.compare import find_differences
from warmstart.dump.state.model import IDENTITY, KernelState
from warmstart.dump.state.read import read_state
from warmstart.kube.helper import Errand
from warmstart.kube.pods import ContainerState
from warmstart.pods import kernel_state, migrate
from warmstart.pods.checkpoint import CheckpointOptions
from warmstart.pods.kernel_state import OF_THE_MACHINE, SCRIPT, parse_processes, read_state_on_node, settle_on_node
from warmstart.pods.save import SaveOptions

pytestmark = pytest.mark.linux
FIND = '$(grep -ls -- "$1" [0-9]*/cgroup | cut -d / -f 1)'
NUMBER = "c" * 64
CONTAINER = ContainerState("app", "shop/app", runtime_id=f"cri-o://{NUMBER}")


@pytest.fixture(scope="module")
def service() -> Iterator[int]:
    """Start the service in tests/programs/traits.py."""
    with running_python(str(traits.PROGRAM), "decisive") as pid:
        yield pid


def show(*pids: int) -> str:
    """Return the output of the script for these processes."""
    assert FIND in SCRIPT
    script = SCRIPT.replace(FIND, " ".join(map(str, pids)))
    return subprocess.run(["sh", "-c", script, "sh", NUMBER], capture_output=True, text=True, check=True).stdout


class OneHelper:
    """A helper on a node whose processes are these."""

    def __init__(self, *outputs: str) -> None:
        self.outputs = list(outputs)

    def run(self, command, write, timeout_s):
        assert command[-1] == NUMBER
        write(self.outputs.pop(0).encode())


def test_the_state_is_that_which_files_of_proc_show(service):
    found = parse_processes(show(service))
    values = {name: value for facts in found.subjects.values() for name, value in facts.items()}
    assert values["nice"] in (str(os.nice(0)), "7")
    assert "239.7.7.7 on lo" in values["groups"]
    assert {"yes"} <= {facts.get("semaphore") for facts in found.subjects.values()}
    assert {"5000000", "0.005000000"} & {facts.get("interval") for facts in found.subjects.values()}
    for name in ("Umask", "mappings locked", "timers", "limit open files", "cwd"):
        assert values[name] == traits.PROCESS[name]
    assert OF_THE_MACHINE.isdisjoint(values)


def test_it_can_be_compared_with_one_that_was_read_on_this_machine(service):
    there, here = parse_processes(show(service)), read_state(Path("/proc"), service)
    assert find_differences(there, here, exact=True) == ()
    changed = {name: {**facts, "semaphore": "no"} for name, facts in here.subjects.items() if "semaphore" in facts}
    lost = find_differences(there, KernelState({**here.subjects, **changed}), exact=True)
    assert [each.rule.code for each in lost] == ["lost-eventfd"]


def test_no_process_of_this_machine_is_asked_for_one_of_the_node(service, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("warmstart.dump.state.read.ask", lambda asked, *_: refuse() if asked else {})
    monkeypatch.setattr("os.pidfd_open", refuse)
    assert parse_processes(show(service))


def test_links_lead_nowhere_and_lines_stay_in_their_files(tmp_path):
    status = "\n".join(f"7/status:{line}" for line in Path("/proc/self/status").read_text().splitlines())
    status = status.replace(f"NSpid:\t{os.getpid()}", "NSpid:\t7\t1")
    others = "7/oom_score_adj:0\n7/personality:0\n7/coredump_filter:33\n7/limits:\n7/stat:7 (a) S 1 1 1 0\n"
    hostile = f"@7/fd/3 {tmp_path}/secret\n@7/fd/4 /a\n../../etc/passwd:x\n@../../x /y\n@7/ns/pid pid:[1]\n7/../x:y\n"
    state = parse_processes(f"{status}\n{others}{hostile}7/fdinfo/4:flags:\t02\n")
    assert {name for name in state.subjects if name.startswith("descriptor")} == {"descriptor 1 4"}


@pytest.mark.parametrize("text", ["", "junk", "@1/cwd /", "1/status:", "1/status:PPid:\tx", "1/status:PPid:\t0"])
def test_without_processes_nothing_is_known(text):
    assert not parse_processes(text)


def test_only_facts_that_stay_the_same_count(service):
    text = show(service)
    before = read_state_on_node(OneHelper(text), CONTAINER)
    changed = text.replace("Umask:\t0077", "Umask:\t0022")
    assert changed != text
    settled = settle_on_node(before, OneHelper(changed), CONTAINER)
    assert settled.subjects.keys() == before.subjects.keys()
    assert "Umask" not in {name for facts in settled.subjects.values() for name in facts}
    assert settle_on_node(before, OneHelper(""), CONTAINER) == before
    assert settle_on_node(KernelState(), OneHelper(), CONTAINER) == KernelState()


def test_a_container_without_an_id_is_not_looked_for():
    assert not read_state_on_node(OneHelper(), ContainerState("app", "shop/app", runtime_id="cri-o://../.."))


def test_too_much_is_an_error(monkeypatch):
    monkeypatch.setattr(kernel_state, "LIMIT_BYTES", 100)
    with pytest.raises(ClusterError, match="more than 100 bytes"):
        read_state_on_node(OneHelper("x" * 101), CONTAINER)


@pytest.fixture
def moved(monkeypatch):
    """Return what a user is warned of if a moved pod has these states at two looks."""

    def move(before: KernelState, *looks: KernelState | ClusterError) -> list[str]:
        @contextlib.contextmanager
        def open_one(cluster, node, errand, *, writable):
            assert (node, errand.sees_processes, writable) == ("node-2", True, False)
            yield None

        states = list(looks)

        def read(helper, container):
            state = states.pop(0)
            if isinstance(state, ClusterError):
                raise state
            return state

        monkeypatch.setattr(migrate, "open_helper", open_one)
        monkeypatch.setattr(migrate, "read_state_on_node", read)
        saved = SimpleNamespace(taken=SimpleNamespace(state=before, container=CONTAINER))
        pod = SimpleNamespace(name="app-2", node="node-2", find_container=lambda name: CONTAINER)
        options = SaveOptions(Path("/"), CheckpointOptions(Errand(sees_processes=True)))
        progress = Progress(SilentListener())
        migrate.warn_of_losses(None, saved, pod, options, progress)
        assert states == []
        return progress.warnings

    return move


def test_losses_of_a_moved_pod_are_warnings(moved):
    locked = KernelState({"descriptor 1 3": {IDENTITY: "/lock", "locks": "FLOCK"}, "process 1": {"name": "app"}})
    free = KernelState({"descriptor 1 3": {IDENTITY: "/lock"}, "process 1": {"name": "app"}})
    (warning,) = moved(locked, free, free)
    assert warning.startswith("the runtime did not restore everything: app (1), descriptor 3 (/lock): file locks none")
    assert warning.endswith("[lost-lock]")
    assert moved(locked, free, locked) == []
    assert moved(KernelState()) == []


def test_a_moved_pod_that_cannot_be_looked_at_is_a_warning(moved):
    (warning,) = moved(KernelState({"process 1": {"Umask": "0077"}}), ClusterError("the helper does not start"))
    assert warning == "the kernel state of app-2 was not compared: the helper does not start"
