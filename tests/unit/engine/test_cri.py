"""The engine that speaks CRI, with a runtime that fails where it is told to."""

from __future__ import annotations

import json
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from cri_api.v1 import api_pb2 as cri

from warmstart.core.errors import CheckpointError, EngineError
from warmstart.engine import cri as cri_module
from warmstart.engine.cri import CriContainer, CriEngine
from warmstart.engine.cri_messages import Host
from warmstart.engine.target import ExecResult, State
from warmstart.recipe.model import Container, Volume, VolumeKind, VolumeMount

CODE = grpc.StatusCode
CONTAINER = Container(image="base")
STARTED = ["RunPodSandbox", "PodSandboxStatus", "CreateContainer", "StartContainer"]
REMOVED = ["ListPodSandbox", "ListContainers", "StopContainer", "StopPodSandbox", "RemovePodSandbox"]

# CRI-O 1.36.3 with runc 1.3 and CRIU 4.2.1; shortened where it says "msg=...", as runc does itself.
RUNC_QUOTES_CRIU = (Path(__file__).parent / "samples/runc-quotes-criu.txt").read_text()
REASONS = [
    "inet: Connected TCP socket, consider using --tcp-established option. (criu/sk-inet.c:200)",
    "Dump files (pid: 149) failed with -1 (criu/cr-dump.c:1545)",
]
NO_SUCH_PROGRAM = """\
container create failed: time="2026-11-24T12:54:51Z" level=error msg="runc create failed: unable to start container \
process: error during container init: exec: \\"/nonexistent\\": stat /nonexistent: no such file or directory"
"""


@pytest.fixture
def running(engine) -> CriContainer:
    with engine.start(CONTAINER, "image", "app") as container:
        yield container


# A container's life


def test_a_container_has_a_pod_of_its_own_for_its_length(engine, runtime):
    with engine.start(CONTAINER, "image", "app") as running:
        assert runtime.calls == STARTED
        assert len(runtime.pods) == 1
    assert runtime.calls == STARTED + REMOVED
    assert runtime.pods == {}
    assert (running.container_id, running.address) == ("container", "10.88.0.2")
    assert running.pod_requested_at <= running.requested_at <= running.created_at <= running.started_at
    create = runtime.requests["CreateContainer"]
    assert create.sandbox_config == runtime.requests["RunPodSandbox"].config
    assert create.config.image.image == "image"
    assert running.log_file == Path(create.sandbox_config.log_directory) / create.config.log_path


def test_the_volumes_of_a_pod_are_there_before_its_container_and_gone_with_it(engine, runtime, tmp_path):
    seen: list[bool] = []
    volume = Volume("data", VolumeKind.EMPTY_DIR)
    runtime.before["CreateContainer"] = lambda: seen.append(any(tmp_path.glob("volumes-*/0")))
    with engine.start(replace(CONTAINER, volume_mounts=(VolumeMount(volume, "/data"),)), "image", "app"):
        mounts = {mount.container_path: mount for mount in runtime.requests["CreateContainer"].config.mounts}
        assert Path(mounts["/data"].host_path).is_dir()
        assert not mounts["/data"].readonly
    assert seen == [True]
    assert not list(tmp_path.glob("volumes-*"))


def test_volumes_that_several_pods_share_outlive_them(engine, runtime):
    container = replace(CONTAINER, volume_mounts=(VolumeMount(Volume("data", VolumeKind.EMPTY_DIR), "/data"),))
    with engine.open_volumes() as volumes:
        for name in ("init", "app"):
            with engine.start(container, "image", name, volumes=volumes):
                source = Path(runtime.requests["CreateContainer"].config.mounts[-1].host_path)
                (source / name).touch()
        assert sorted(path.name for path in source.iterdir()) == ["app", "init"]
    assert not source.exists()


def test_other_hosts_have_names(engine, runtime):
    hosts = (Host("10.88.0.9", ("postgres", "postgres.shop.svc")),)
    with engine.start(CONTAINER, "image", "app", hosts=hosts):
        path = runtime.requests["CreateContainer"].config.mounts[0].host_path
        assert Path(path).read_text().splitlines()[-2:] == ["10.88.0.2\tapp", "10.88.0.9\tpostgres\tpostgres.shop.svc"]


def test_pods_of_others_are_left_alone(engine, runtime):
    theirs = cri.PodSandboxMetadata(name="app", uid="theirs", namespace="warmstart")
    runtime.pods["theirs"] = cri.PodSandbox(id="theirs", metadata=theirs)
    with engine.start(CONTAINER, "image", "app"):
        pass
    assert list(runtime.pods) == ["theirs"]


@pytest.mark.parametrize("method", STARTED)
def test_a_start_that_fails_at_any_step_leaves_no_pod(engine, runtime, method):
    runtime.failures[method] = (CODE.UNKNOWN, "it does not work")
    with pytest.raises(EngineError, match=r"^could not .*: it does not work$"), engine.start(CONTAINER, "image", "app"):
        pytest.fail("it started")
    assert runtime.pods == {}


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt(), SystemExit(143)])
def test_an_error_in_between_leaves_no_pod_and_stays_the_error(engine, runtime, error):
    with pytest.raises(type(error)) as caught, engine.start(CONTAINER, "image", "app"):
        raise error
    assert caught.value is error
    assert runtime.pods == {}


@pytest.mark.parametrize("method", REMOVED)
def test_a_removal_that_fails_does_not_hide_the_error(engine, runtime, method):
    runtime.failures[method] = (CODE.UNKNOWN, "it does not work")
    with pytest.raises(ZeroDivisionError), engine.start(CONTAINER, "image", "app"):
        raise ZeroDivisionError
    assert method in runtime.calls


@pytest.mark.parametrize("method", REMOVED)
def test_a_removal_that_fails_is_the_error_otherwise(engine, runtime, method):
    runtime.failures[method] = (CODE.UNKNOWN, "it does not work")
    with pytest.raises(EngineError, match=r"it does not work$"), engine.start(CONTAINER, "image", "app"):
        pass


def test_a_container_is_given_no_time_to_obey(engine, runtime):
    with engine.start(CONTAINER, "image", "app"):
        pass
    assert runtime.requests["ListContainers"].filter.pod_sandbox_id == "pod-0"
    assert runtime.requests["StopContainer"] == cri.StopContainerRequest(container_id="container", timeout=0)


def test_a_pod_that_cannot_be_stopped_is_removed_all_the_same(engine, runtime):
    runtime.failures["StopPodSandbox"] = (CODE.UNKNOWN, "it does not stop")
    with pytest.raises(EngineError, match="it does not stop"), engine.start(CONTAINER, "image", "app"):
        pass
    assert runtime.pods == {}


def test_a_pod_whose_start_is_interrupted_is_removed(engine, runtime):
    """The runtime has made it, and nobody has heard so yet."""

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        runtime.stopping.wait(0.5)

    runtime.before["RunPodSandbox"] = interrupt
    with pytest.raises(KeyboardInterrupt), engine.start(CONTAINER, "image", "app"):
        pytest.fail("it started")
    assert "RemovePodSandbox" in runtime.calls
    assert runtime.pods == {}


# What the runtime says


def test_a_runtime_that_is_not_there_is_said_so(tmp_path):
    with CriEngine(f"unix://{tmp_path}/none.sock", proc=Path("/proc"), network=None, scratch=tmp_path) as engine:
        with pytest.raises(
            EngineError, match=r"^could not ask the runtime for its version: the runtime does not answer$"
        ):
            engine.version()
        with pytest.raises(EngineError, match="the runtime does not answer"), engine.start(CONTAINER, "image", "app"):
            pass


def test_a_runtime_that_does_not_answer_in_time_is_said_so(engine, runtime, monkeypatch):
    monkeypatch.setattr(cri_module, "CALL_S", 0.2)
    runtime.before["Version"] = lambda: runtime.stopping.wait(5)
    with pytest.raises(EngineError, match=r"^could not ask the runtime for its version: the runtime takes too long$"):
        engine.version()


@pytest.mark.parametrize(
    ("message", "brief", "details"),
    [
        ("refused", "refused", ()),
        ("first\nsecond\nthird\n", "first", ("second", "third")),
        ("", "the runtime does not say why", ()),
        (RUNC_QUOTES_CRIU, REASONS[0], (REASONS[1],)),
        (
            NO_SUCH_PROGRAM,
            "container create failed: runc create failed: unable to start container process: error during container "
            'init: exec: "/nonexistent": stat /nonexistent: no such file or directory',
            (),
        ),
    ],
)
def test_what_the_runtime_says_is_told_with_its_reasons_first(engine, runtime, message, brief, details):
    runtime.failures["CreateContainer"] = (CODE.UNKNOWN, message)
    with pytest.raises(EngineError) as caught, engine.start(CONTAINER, "image", "app"):
        pass
    assert caught.value.brief == f"could not create the container: {brief}"
    assert caught.value.details == details


def test_what_the_runtime_is_and_where_its_images_are(engine):
    assert engine.version() == "fake 1.2"
    assert engine.image_directory() == Path("/store/overlay-images")


def test_an_image_is_removed_by_its_name(engine, runtime):
    engine.remove_image("localhost/app:1")
    assert runtime.requests["RemoveImage"].image.image == "localhost/app:1"


# The container


def test_a_container_is_running_until_it_has_ended(running, runtime):
    assert running.state() == State()
    status = cri.ContainerStatus(state=cri.CONTAINER_EXITED, exit_code=137, reason="OOMKilled")
    runtime.answers["ContainerStatus"] = cri.ContainerStatusResponse(status=status)
    assert running.state() == State(137, "OOMKilled")
    assert running.state().exited


def test_what_the_runtime_knows_of_a_container(running, runtime):
    runtime.answers["ContainerStatus"] = cri.ContainerStatusResponse(info={"info": json.dumps({"pid": 42})})
    assert (running.pid, running.restored) == (42, False)
    info = {"info": json.dumps({"pid": 42, "restored": True})}
    runtime.answers["ContainerStatus"] = cri.ContainerStatusResponse(info=info)
    assert running.restored
    assert runtime.requests["ContainerStatus"].verbose


def test_a_host_is_found_at_another_address(engine):
    hosts = (Host("10.91.0.2", ("db", "db.shop.svc")), Host("10.91.0.20", ("cache",)))
    with engine.start(CONTAINER, "image", "app", hosts=hosts) as running:
        file = running.log_file.with_name("hosts")
        before, inode = file.read_text(), file.stat().st_ino
        running.move_host("10.91.0.2", "10.91.0.130")
        assert file.read_text() == before.replace("10.91.0.2\t", "10.91.0.130\t")
        running.move_host("10.91.0.130", "10.91.0.2")
        assert (file.read_text(), file.stat().st_ino) == (before, inode)


def test_a_container_may_have_written_anything_to_its_hosts(engine):
    with engine.start(CONTAINER, "image", "app", hosts=[Host("10.91.0.2", ("db",))]) as running:
        file = running.log_file.with_name("hosts")
        file.write_bytes(b"\xff\n10.91.0.21\tx\n10.91.0.2\tdb")
        running.move_host("10.91.0.2", "10.91.0.130")
        assert file.read_bytes() == b"\xff\n10.91.0.21\tx\n10.91.0.130\tdb"
        with file.open("r+b") as big:
            big.truncate(1 << 40)
        running.move_host("10.91.0.130", "10.91.0.2")
        assert file.stat().st_size == 1 << 40


def test_from_inside_it_is_reached_on_its_own_network(running, runtime, monkeypatch):
    runtime.answers["ContainerStatus"] = cri.ContainerStatusResponse(info={"info": json.dumps({"pid": 42})})
    monkeypatch.setattr(cri_module, "connect_in", lambda *arguments: arguments)
    inside = running.from_inside()
    assert inside.address == "localhost"
    assert inside.connect(80, None, 3.0) == (Path("/proc/42/ns/net"), ("localhost", 80), 3.0)


def test_a_connection_is_made_to_the_pod_or_to_another_host(running):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with running.connect(address[1], "127.0.0.1", 10) as connection:
            assert connection.getpeername() == address


@pytest.mark.parametrize(("timeout_s", "sent"), [(0.1, 1), (1.4, 1), (2.6, 3)])
def test_a_command_is_run_with_a_limit_in_whole_seconds(running, runtime, timeout_s, sent):
    runtime.answers["ExecSync"] = cri.ExecSyncResponse(exit_code=3, stdout=b"out\xff", stderr=b"err")
    assert running.exec(["cmd", "arg"], timeout_s) == ExecResult(3, "out\ufffd", "err")
    request = runtime.requests["ExecSync"]
    assert (list(request.cmd), request.timeout, request.container_id) == (["cmd", "arg"], sent, "container")


def test_a_command_that_crio_ended_took_too_long(running, runtime):
    runtime.answers["ExecSync"] = cri.ExecSyncResponse(exit_code=-1, stderr=b"command timed out")
    with pytest.raises(TimeoutError, match="cmd had not ended after 2 s"):
        running.exec(["cmd"], 2)


def test_a_command_that_says_the_same_by_itself_did_not(running, runtime):
    runtime.answers["ExecSync"] = cri.ExecSyncResponse(exit_code=1, stderr=b"command timed out")
    assert running.exec(["cmd"], 2).exit_code == 1


def test_a_command_whose_end_is_not_heard_of_took_too_long(running, runtime):
    runtime.failures["ExecSync"] = (CODE.DEADLINE_EXCEEDED, "")
    with pytest.raises(TimeoutError, match="cmd had not ended after 2 s"):
        running.exec(["cmd"], 2)


def test_a_command_that_cannot_be_run_is_the_runtimes_error(running, runtime):
    runtime.failures["ExecSync"] = (CODE.UNKNOWN, "no such command")
    with pytest.raises(EngineError, match=r"^could not run cmd in the container: no such command$"):
        running.exec(["cmd"], 2)


def test_the_end_of_the_log_is_what_the_container_wrote(running):
    assert running.log_tail(5) == []
    running.log_file.write_bytes(b"")
    assert running.log_tail(5) == []
    stamp = b"2026-11-24T12:54:50.123456789+00:00"
    lines = [b"stdout F first", b"stderr F a  b", b"stdout F ", b"stdout P 10 %\r20 %\x0c\xe2\x80\xa8\xff"]
    running.log_file.write_bytes(b"".join(stamp + b" " + line + b"\n" for line in lines))
    assert running.log_tail(5) == ["first", "a  b", "", "10 %\r20 %\x0c\u2028\ufffd"]
    assert running.log_tail(2) == ["", "10 %\r20 %\x0c\u2028\ufffd"]


def test_a_line_written_in_pieces_is_one(running):
    pieces = ["stdout P LOST", "stderr F other", "stdout P  by", "stdout F  all", "stdout P end"]
    running.log_file.write_text("".join(f"TIME {piece}\n" for piece in pieces))
    assert running.log_tail(5) == ["other", "LOST by all", "end"]
    assert running.log_tail(2) == ["LOST by all", "end"]


@pytest.mark.parametrize("limit", [16, 17, 25])
def test_of_a_long_log_only_the_end_is_read(running, monkeypatch, limit):
    monkeypatch.setattr(cri_module, "LOG_LIMIT_BYTES", limit)
    running.log_file.write_text("T stdout F x" + "y" * 99 + "\nT stdout F last\n")
    assert running.log_tail(5) == ["last"]


def test_the_log_of_a_restored_container_is_named_after_it(running):
    running.log_file.with_name("9f0c.log").write_text("TIME stdout F restored\n")
    assert replace(running, container_id="9f0c").log_tail(5) == ["restored"]


# Checkpoints


def test_a_checkpoint_is_written_to_a_new_file(running, runtime, tmp_path):
    archive = tmp_path / "checkpoint.tar"
    archive.write_text("older and longer")

    def write() -> None:
        # CRI-O would not truncate it.
        assert not archive.exists()
        archive.write_text("new")

    runtime.before["CheckpointContainer"] = write
    running.checkpoint(archive, 30)
    request = runtime.requests["CheckpointContainer"]
    assert (request.location, request.timeout, request.container_id) == (str(archive), 30, "container")
    assert archive.read_text() == "new"


def test_a_checkpoint_that_fails_leaves_no_file(running, runtime, tmp_path):
    archive = tmp_path / "checkpoint.tar"
    runtime.before["CheckpointContainer"] = lambda: archive.write_text("half")
    runtime.failures["CheckpointContainer"] = (CODE.UNKNOWN, RUNC_QUOTES_CRIU)
    with pytest.raises(CheckpointError) as caught:
        running.checkpoint(archive, 30)
    assert caught.value.brief == f"CRIU could not dump the container: {REASONS[0]}"
    assert caught.value.details == (REASONS[1],)
    assert not archive.exists()


def test_a_checkpoint_whose_log_is_named_is_explained_from_there(running, runtime, tmp_path):
    log = tmp_path / "dump.log"
    log.write_text(
        "(00.1) Error (criu/files-ext.c:99): Can't dump file 5 of that type [20666] (chr 10:229 /dev/fuse)\n"
    )
    runtime.failures["CheckpointContainer"] = (
        CODE.UNKNOWN,
        f"CRIU checkpointing failed -1.  Please check CRIU logfile {log}",
    )
    with pytest.raises(CheckpointError, match=r"Can't dump file 5 of that type .* \(criu/files-ext\.c:99\)$"):
        running.checkpoint(tmp_path / "checkpoint.tar", 30)


def test_a_checkpoint_that_the_runtime_refuses(running, runtime, tmp_path):
    message = "checkpoint/restore support not available"
    runtime.failures["CheckpointContainer"] = (CODE.UNIMPLEMENTED, message)
    with pytest.raises(CheckpointError, match=rf"^the runtime could not checkpoint the container: {message}$"):
        running.checkpoint(tmp_path / "checkpoint.tar", 30)


def test_a_checkpoint_that_takes_too_long(running, runtime, tmp_path):
    runtime.before["CheckpointContainer"] = lambda: runtime.stopping.wait(5)
    with pytest.raises(CheckpointError, match=r"^the checkpoint took longer than 0\.2 s$") as caught:
        running.checkpoint(tmp_path / "checkpoint.tar", 0.2)
    assert "--checkpoint-timeout" in caught.value.hint
