"""What is told when a kubelet does not answer as it should: whether a checkpoint may be on the node all the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from warmstart.core.errors import CheckpointError, ClusterError, WarmstartError
from warmstart.core.progress import Progress, SilentListener
from warmstart.dump.state.model import KernelState
from warmstart.kube.helper import Errand
from warmstart.kube.pods import ContainerState, Pod
from warmstart.kube.refusal import RefusedError
from warmstart.pods import checkpoint
from warmstart.pods.checkpoint import CheckpointOptions, ask_kubelet, take_with

WHERE = "the checkpoint may still be on the node node-1: /var/lib/kubelet/checkpoints/checkpoint-app_shop-server-*.tar"
POD = Pod("shop", "app", "uid", "node-1", "10.0.0.1", "10.1.0.1", "Running", True, False, (), {})


class Answering:
    """A cluster whose kubelet fails."""

    def __init__(self, error: WarmstartError) -> None:
        self._error = error

    def checkpoint(self, *_: object) -> str:
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ClusterError("POST /checkpoint: no answer within 130 s"), ClusterError),
        (ClusterError("POST /checkpoint: the connection failed: reset"), ClusterError),
        (RefusedError(502, "could not POST /checkpoint: error trying to reach service: EOF"), ClusterError),
        (RefusedError(500, "could not POST: failed (rpc error: code = DeadlineExceeded desc = …)"), CheckpointError),
        # Neither did the kubelet itself answer, where the API server may not ask it.
        (RefusedError(403, "not allowed", details=["nor could the kubelet: no answer within 130 s"]), RefusedError),
    ],
)
def test_it_is_told_where_a_checkpoint_may_be(error, kind):
    with pytest.raises(kind) as caught:
        ask_kubelet(Answering(error), POD, "server", CheckpointOptions())
    assert caught.value.details[-1] == WHERE


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RefusedError(500, "could not POST /checkpoint: checkpointing of shop/app/server failed"), CheckpointError),
        (RefusedError(503, "could not POST: dial tcp 10.1.0.1:10250: connect: connection refused"), ClusterError),
        (RefusedError(404, "could not POST: 404 page not found"), ClusterError),
        (RefusedError(403, "not allowed", needs="create nodes/proxy"), RefusedError),
    ],
)
def test_nothing_is_told_of_a_checkpoint_that_was_not_made(error, kind):
    with pytest.raises(kind) as caught:
        ask_kubelet(Answering(error), POD, "server", CheckpointOptions())
    assert "may still be" not in "\n".join([caught.value.brief, *caught.value.details])


@pytest.mark.parametrize("sees_processes", [True, False])
def test_the_state_is_that_around_the_checkpoint_if_the_helper_sees_processes(sees_processes, monkeypatch, tmp_path):
    done, archive = [], tmp_path / "checkpoint.tar"
    archive.touch()

    def read(helper, container):
        done.append("read")
        return KernelState({"process 1": {"Umask": "0077", "cwd": f"/{len(done)}"}})

    monkeypatch.setattr("warmstart.pods.kernel_state.read_state_on_node", read)
    monkeypatch.setattr(checkpoint, "read_state_on_node", read)
    monkeypatch.setattr(checkpoint, "checkpoint_in_time", lambda *_: done.append("checkpoint") or (0.0, "/there"))
    monkeypatch.setattr(checkpoint, "fetch_archive", lambda *_: done.append("fetch"))
    monkeypatch.setattr(checkpoint, "_find_frozen", lambda *_: None)
    helper, progress = SimpleNamespace(remove=lambda path: done.append("remove")), Progress(SilentListener())
    options = CheckpointOptions(Errand(sees_processes=sees_processes))
    taken = take_with(helper, POD, ContainerState("server", "server:1"), archive, options, progress)
    if sees_processes:
        assert done == ["read", "checkpoint", "read", "fetch", "remove"]
        assert taken.state == KernelState({"process 1": {"Umask": "0077"}})
    else:
        assert done == ["checkpoint", "fetch", "remove"]
        assert not taken.state
