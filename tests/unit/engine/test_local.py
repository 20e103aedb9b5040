"""Runtimes on this machine: which can be built on, what of the host is seen, and with what credentials."""

from __future__ import annotations

import base64
import json
import signal
import stat
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from cri_api.v1 import api_pb2 as cri

from warmstart.core.errors import EngineError, HostError, ImageError, RegistryError
from warmstart.core.reference import parse_source
from warmstart.engine import local
from warmstart.engine.local import (
    DOCKER_SOCKET,
    LocalEngine,
    connect_engine,
    examine_runtime,
    find_access,
    find_binds,
    find_host_runtime,
)
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.skopeo import SkopeoAccess, copy_image
from warmstart.node.keeper import Bind


class FakeSession:
    """Remembers what was to be run."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.commands: list[list[str]] = []
        self.policies: list[str] = []

    def stream(self, command: Sequence[str | Path], *, on_line: Callable[[str], object], **_: object) -> None:
        self.commands.append([str(word) for word in command])
        for word, value in pairwise(command):
            if word == "--digestfile":
                Path(value).write_text("sha256:0")
            if word == "--policy":
                self.policies.append(Path(value).read_text())
        on_line("copied")


def be_crio(runtime) -> None:
    runtime.answers["Version"] = cri.VersionResponse(runtime_name="cri-o", runtime_version="1.36.3")


# The host's runtime


def test_a_crio_of_the_host_is_known_with_its_store(runtime):
    be_crio(runtime)
    found = find_host_runtime(runtime.endpoint)
    assert (found.endpoint, found.root, found.version) == (runtime.endpoint, Path("/store"), "cri-o 1.36.3")
    assert found.binds == [Bind("/store", writable=True), Bind("/run/containers/storage", writable=True)]


def test_another_runtime_cannot_be_built_on(runtime):
    with pytest.raises(HostError, match=r"fake 1\.2 cannot be built on, only CRI-O can$") as caught:
        find_host_runtime(runtime.endpoint)
    assert "--runtime-endpoint" in caught.value.hint


def test_a_runtime_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(EngineError, match="does not answer"):
        find_host_runtime(f"unix://{tmp_path}/none.sock")


def test_a_runtime_is_examined(runtime, tmp_path):
    missing = examine_runtime(f"unix://{tmp_path}/none.sock")
    assert (missing.ok, "--runtime-endpoint" in missing.fix) == (False, True)
    other = examine_runtime(runtime.endpoint)
    assert (other.ok, "only CRI-O can" in other.found) == (False, True)
    be_crio(runtime)
    good = examine_runtime(runtime.endpoint)
    assert (good.ok, good.found, good.fix) == (True, "cri-o 1.36.3", "")


def test_images_are_brought_into_the_hosts_store(runtime, tmp_path):
    be_crio(runtime)
    session = FakeSession(tmp_path)
    with connect_engine(session, find_host_runtime(runtime.endpoint)) as engine:
        assert engine.cri.version() == "cri-o 1.36.3"
        engine.import_image(tmp_path / "layout", "localhost/app:1")
    (command,) = session.commands
    assert command[:2] == ["skopeo", "copy"]
    store = "containers-storage:[overlay@/store+/run/containers/storage]localhost/app:1"
    assert command[-2:] == [f"oci:{tmp_path}/layout", store]


def test_an_interruption_does_not_cut_short_what_is_written_to_the_hosts_store(runtime, tmp_path):
    be_crio(runtime)
    done = []

    class SlowSession(FakeSession):
        def stream(self, command: Sequence[str | Path], **options: object) -> None:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.3)
            super().stream(command, **options)
            done.append(True)

    with connect_engine(SlowSession(tmp_path), find_host_runtime(runtime.endpoint)) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.import_image(tmp_path / "layout", "localhost/app:1")
        assert done


# CRIU's options


def make_engine(session: object) -> LocalEngine:
    return LocalEngine(None, session, Path("/root"), Path("/runroot"))


def test_options_for_criu_are_there_for_the_length_of_a_block(tmp_path):
    session = SimpleNamespace(root=tmp_path)
    (tmp_path / "etc").mkdir()
    with make_engine(session).configured_criu(["tcp-established", "link-remap"]):
        assert (tmp_path / "etc/criu/runc.conf").read_text() == "tcp-established\nlink-remap\n"
    assert list((tmp_path / "etc/criu").iterdir()) == []


def test_without_options_there_is_no_file(tmp_path):
    with make_engine(SimpleNamespace(root=tmp_path)).configured_criu([]):
        assert list(tmp_path.iterdir()) == []


def test_a_session_that_is_gone_does_not_hide_an_error(tmp_path):
    (tmp_path / "etc").mkdir()

    def lose() -> None:
        (tmp_path / "etc/criu/runc.conf").unlink()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), make_engine(SimpleNamespace(root=tmp_path)).configured_criu(["x"]):
        lose()


# What of the host is seen


def test_a_file_is_seen_by_its_whole_path_and_not_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.tar").touch()
    assert find_binds(parse_source("oci-archive:base.tar")) == [Bind(f"{tmp_path}/base.tar")]
    (tmp_path / "layout").mkdir()
    assert find_binds(parse_source(f"oci:{tmp_path}/layout:1")) == [Bind(f"{tmp_path}/layout")]


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(ImageError, match=rf"^oci-archive:{tmp_path}/none\.tar: there is no such file or directory$"):
        find_binds(parse_source(f"oci-archive:{tmp_path}/none.tar"))


def test_a_registry_needs_nothing_of_the_host():
    assert find_binds(parse_source("registry.example.com/app:1")) == []


def test_a_store_is_written_to_for_its_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "LOCAL_STORAGE", (str(tmp_path), f"{tmp_path}/none"))
    assert find_binds(parse_source("containers-storage:localhost/app:1")) == [Bind(str(tmp_path), writable=True)]


def test_a_daemon_is_asked_through_its_socket():
    assert find_binds(parse_source("docker-daemon:app:1")) == [Bind(DOCKER_SOCKET, writable=True)]


# Credentials


@pytest.fixture
def auth_file(tmp_path) -> Path:
    path = tmp_path / "own.json"
    auth = base64.b64encode(b"user:pass:word").decode()
    token = {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": "secret"}
    path.write_text(json.dumps({"auths": {"registry.example.com": {"auth": auth}, "token.example.com": token}}))
    return path


def test_credentials_are_handed_over_in_a_file_that_nobody_else_reads(tmp_path, auth_file):
    session = FakeSession(tmp_path)
    access = find_access(session, parse_source("registry.example.com/app:1"), RegistryAccess(auth_file=auth_file))
    assert access == SkopeoAccess(auth_file=tmp_path / "auth.json")
    assert stat.S_IMODE((tmp_path / "auth.json").stat().st_mode) == 0o600
    (entry,) = json.loads((tmp_path / "auth.json").read_text())["auths"].items()
    assert entry[0] == "registry.example.com"
    assert base64.b64decode(entry[1]["auth"]) == b"user:pass:word"


def test_a_token_is_handed_over_as_one(tmp_path, auth_file):
    find_access(FakeSession(tmp_path), parse_source("token.example.com/app:1"), RegistryAccess(auth_file=auth_file))
    auths = json.loads((tmp_path / "auth.json").read_text())["auths"]
    assert auths == {"token.example.com": {"identitytoken": "secret"}}


def test_a_registry_without_credentials_is_asked_without(tmp_path, auth_file):
    access = find_access(
        FakeSession(tmp_path), parse_source("localhost:5000/app:1"), RegistryAccess(("localhost:5000",), auth_file)
    )
    assert access == SkopeoAccess(plain_http=True)
    assert not (tmp_path / "auth.json").exists()


def test_a_file_of_credentials_that_is_not_there_is_said_so(tmp_path):
    access = RegistryAccess((), tmp_path / "none.json")
    with pytest.raises(RegistryError, match="no such credentials file"):
        find_access(FakeSession(tmp_path), parse_source("localhost:5000/app:1"), access)


def test_what_is_no_registry_has_no_credentials(tmp_path, auth_file):
    assert (
        find_access(FakeSession(tmp_path), parse_source("oci:layout"), RegistryAccess(("localhost:5000",), auth_file))
        == SkopeoAccess()
    )


def test_an_engine_is_a_runtime_and_its_store(engine, tmp_path):
    session = FakeSession(tmp_path)
    LocalEngine(engine, session, Path("/root"), Path("/runroot")).import_image(Path("/layout"), "app:1")
    assert session.commands[0][-1] == "containers-storage:[overlay@/root+/runroot]app:1"


def test_a_layout_of_ours_is_imported_whatever_the_machines_policy(engine, tmp_path):
    session = FakeSession(tmp_path)
    LocalEngine(engine, session, Path("/root"), Path("/runroot")).import_image(Path("/layout"), "app:1")
    (policy,) = map(json.loads, session.policies)
    assert policy["default"] == [{"type": "reject"}]
    assert list(policy["transports"]) == ["oci"]


def test_the_machines_policy_holds_for_what_comes_from_elsewhere(tmp_path):
    session = FakeSession(tmp_path)
    copy_image(session, "docker://example.com/app:1", "oci:/layout")
    assert not {"--policy", "--insecure-policy"} & set(session.commands[0])
