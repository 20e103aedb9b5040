"""The agents of hooks in a pod, with an API server and a launcher that are not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.fake_api import POD, FakeApi, Stream, run_api

from warmstart.build.hook_channel import HookProcess
from warmstart.core.errors import AppError, ClusterError
from warmstart.engine.cluster import KubernetesContainer
from warmstart.kube.answer import Answer
from warmstart.kube.pods import parse_pod
from warmstart.pods.hooks import PodHooks

EXEC = "GET /api/v1/namespaces/shop/pods/app/exec"
SUCCESS = (3, b'{"status": "Success"}')
FAILURE = {"status": "Failure", "message": "no", "details": {"causes": [{"reason": "ExitCode", "message": "70"}]}}
REGISTERED = '{"pid": 100, "event": "registered", "runtime": "python 3.11"}\n'


def answering(*exchanges: str) -> Callable[[str], Stream]:
    """Return what the launcher prints in one exchange after the other, the last one for ever."""
    left = list(exchanges)
    return lambda _: Stream([(1, (left.pop(0) if len(left) > 1 else left[0]).encode()), SUCCESS])


def open_hooks(cluster: Any) -> PodHooks:
    return PodHooks(container=KubernetesContainer(cluster, parse_pod(Answer(POD, "pod")), "app", 0.0))


def request(hooks: PodHooks) -> tuple[HookProcess, ...]:
    return hooks.request(hooks.list_pids, lambda: None, 20)


def test_processes_are_asked_until_each_has_answered():
    pids, done = "pids 1 100 130\n", '{"pid": 100, "event": "checkpoint", "seconds": 0.5}\n'
    api = FakeApi({EXEC: answering(pids + REGISTERED, pids, pids + done)})
    with run_api(api) as cluster:
        assert request(open_hooks(cluster)) == (HookProcess(100, "python 3.11", 0.5),)
    assert ["command=look" in one for one in api.seen] == [True, False, False]
    assert ["command=ask" in one for one in api.seen] == [False, True, True]


def test_a_process_that_has_ended_need_not_answer():
    api = FakeApi({EXEC: answering("pids 1 100\n" + REGISTERED, "pids 1 104\n")})
    with run_api(api) as cluster:
        assert request(open_hooks(cluster)) == ()


def test_a_hook_that_fails_is_told():
    failed = '{"pid": 100, "event": "failed", "phase": "beforeCheckpoint", "error": "KeyError: 1"}\n'
    api = FakeApi({EXEC: answering("pids 1 100\n" + REGISTERED, "pids 1 100\n" + failed)})
    with run_api(api) as cluster, pytest.raises(AppError, match=r"process 100 \(python 3.11\) failed: KeyError: 1"):
        request(open_hooks(cluster))


def test_an_application_asks_for_its_checkpoint():
    api = FakeApi({EXEC: answering("pids 1 100\n" + REGISTERED, 'pids 1 100\n{"pid": 100, "event": "ready"}\n')})
    with run_api(api) as cluster:
        hooks = open_hooks(cluster)
        assert [hooks.asks_for_checkpoint() for _ in range(2)] == [False, True]


@pytest.mark.parametrize("said", ["", "pids", "pids x\n", "x\npids 1\n", "pids " + "1" * 20 + "\n"])
def test_a_launcher_that_lists_no_processes_is_an_error(said):
    with run_api(FakeApi({EXEC: answering(said)})) as cluster:
        with pytest.raises(ClusterError, match="did not list the processes"):
            open_hooks(cluster).list_pids()
        assert not open_hooks(cluster).asks_for_checkpoint()


def test_a_launcher_that_fails_says_why():
    stream = Stream([(2, b"warmstart: cannot open the FIFOs"), (3, json.dumps(FAILURE).encode())])
    with run_api(FakeApi({EXEC: stream})) as cluster, pytest.raises(ClusterError) as caught:
        open_hooks(cluster).look()
    assert caught.value.details == ("cannot open the FIFOs",)
