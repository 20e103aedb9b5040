"""Pods that do not become ready in time: each wait names the limit and the reason, and removes its pod."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from support.fake_api import POD, FakeApi, Reply, run_api

from warmstart.core.errors import AppError, ClusterError
from warmstart.core.progress import Progress, SilentListener
from warmstart.engine import cluster as engine
from warmstart.kube import helper
from warmstart.kube.answer import Answer
from warmstart.kube.client import Cluster, PodTimeoutError
from warmstart.kube.pods import parse_pod
from warmstart.pods import save
from warmstart.pods.save import restore_pod

PODS = "/api/v1/namespaces/shop/pods"
ONE = f"{PODS}/app"
REMOVED = f"DELETE {ONE}"


@contextlib.contextmanager
def late_pod() -> Iterator[tuple[Cluster, FakeApi]]:
    """A cluster with a pod that is never ready, under any name that it is deleted by."""
    api = FakeApi({f"POST {PODS}": Reply(POD), f"GET {ONE}": Reply(POD), REMOVED: Reply(POD)})
    with run_api(api) as cluster:
        yield cluster, api


def test_waiting_for_a_pod_keeps_its_last_state():
    with late_pod() as (cluster, _), pytest.raises(PodTimeoutError) as caught:
        cluster.wait_pod(parse_pod(Answer(POD, "pod")), lambda pod: pod.ready, 0)
    assert caught.value.pod.explain()


def test_a_restored_pod_that_is_late_is_removed():
    with late_pod() as (cluster, api):
        with pytest.raises(ClusterError, match="the pod app was not ready within 0 s") as caught:
            restore_pod(cluster, POD, "app", 0, Progress(SilentListener()))
        assert any("for it" in line for line in caught.value.details)
        assert REMOVED in api.seen


@pytest.mark.parametrize("failures", [1, 100])
def test_a_pod_that_is_not_removed_at_once_is_tried_again_and_named(monkeypatch, failures):
    monkeypatch.setattr(save, "REMOVAL_PAUSE_S", 0)
    left = [Reply({"message": "busy"}, status=500)] * failures
    progress = Progress(SilentListener())
    with late_pod() as (cluster, api):
        api.answers[REMOVED] = lambda _: left.pop() if left else Reply(POD)
        with pytest.raises(ClusterError, match="the pod app was not ready within 0 s"):
            restore_pod(cluster, POD, "app", 0, progress)
        assert api.seen.count(REMOVED) == (2 if failures == 1 else save.REMOVALS)
    if failures == 1:
        assert progress.warnings == []
    else:
        (warning,) = progress.warnings
        assert warning.endswith("Remove it: kubectl delete pod app --namespace shop")


def test_a_build_pod_that_does_not_start_is_removed(monkeypatch):
    monkeypatch.setattr(engine, "PULL_S", 0)
    monkeypatch.setattr(engine, "INIT_S", 0)
    with late_pod() as (cluster, api):
        with pytest.raises(ClusterError, match="the pod app did not start within 0 s"), engine.start_pod(cluster, POD):
            pass
        assert REMOVED in api.seen


def test_a_build_pod_that_is_never_ready_is_the_applications_fault():
    with late_pod() as (cluster, _):
        container = engine.KubernetesContainer(cluster, parse_pod(Answer(POD, "pod")), "app", 0.0)
        with pytest.raises(AppError, match="the pod was not ready within 0 s"):
            container.await_ready(0)


def test_a_late_helper_pod_names_the_option(monkeypatch):
    monkeypatch.setattr(helper, "START_S", 0)
    monkeypatch.setattr(helper.secrets, "token_hex", lambda _: "0")
    with late_pod() as (cluster, api):
        with (
            pytest.raises(ClusterError, match="did not start on the node node-1 within 0 s") as caught,
            helper.open_helper(cluster, "node-1", helper.Errand(namespace="shop"), writable=False),
        ):
            pass
        assert "--helper-image" in caught.value.hint
        assert f"DELETE {PODS}/warmstart-helper-0" in api.seen
