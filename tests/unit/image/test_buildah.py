from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from warmstart.cli.context import default_cache
from warmstart.core.errors import ImageError
from warmstart.core.workspace import open_workspace
from warmstart.image.annotations import CREATED
from warmstart.image.buildah import Buildah
from warmstart.image.layout import open_blob, read_document, read_image
from warmstart.node.session import enter
from warmstart.node.tree import tree_path

# buildah is started beside a connection to the runtime, many times in one process.
PROGRAM = """
import sys
from pathlib import Path
from warmstart.engine.cri import CriEngine
from warmstart.image.buildah import Buildah
import grpc

with CriEngine(sys.argv[1], proc=Path("/proc"), network=None, scratch=Path("/")) as engine:
    grpc.channel_ready_future(engine._channel).result(60)
    buildah = Buildah(["true"], {}, Path(sys.argv[2]))
    (Path(sys.argv[2]) / "root/vfs/dir/layer").mkdir(parents=True)
    for _ in range(7):
        with buildah.working_container() as container:
            container.commit(Path(sys.argv[2]) / "empty", "image", annotations={}, labels={}, cmd=None).result()
"""


def test_buildah_runs_beside_an_open_connection(tmp_path):
    with ThreadPoolExecutor(1) as workers:
        server = grpc.server(workers)
        server.add_insecure_port(f"unix://{tmp_path}/crio.sock")
        server.start()
        (tmp_path / "empty").mkdir()
        argv = [sys.executable, "-c", PROGRAM, f"unix://{tmp_path}/crio.sock", str(tmp_path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        server.stop(None).wait()
    assert done.returncode == 0, done.stderr
    # Without the setting, gRPC tells of forks here, whether or not one has gone wrong.
    assert done.stderr == ""


SLEEP = ["sh", "-c", "echo $$ >>pids; sleep 600", "buildah"]


@pytest.fixture
def stuck(tmp_path, monkeypatch) -> Buildah:
    """A buildah that never ends."""
    monkeypatch.chdir(tmp_path)
    return Buildah(SLEEP, dict(os.environ), tmp_path / "store")


def commit(buildah: Buildah, directory: Path) -> None:
    with buildah.working_container() as container:
        container.commit(directory, "image", annotations={}, labels={}, cmd=None).result()


def test_an_interruption_ends_it_and_leaves_no_thread_that_would_keep_us(stuck, tmp_path) -> None:
    before = set(threading.enumerate())
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        commit(stuck, tmp_path)
    # Those of `sh` end with the program, a moment later.
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(timeout=60)
            assert not thread.is_alive(), thread


def test_it_is_ended_when_it_takes_too_long(stuck, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("warmstart.image.buildah.TIMEOUT_S", 0.5)
    with pytest.raises(ImageError, match=r"^buildah from took longer than 0\.5 s$"):
        commit(stuck, tmp_path)


@pytest.mark.parametrize("wait", [False, True], ids=["at-once", "while-it-runs"])
def test_a_failure_beside_it_ends_it(stuck, tmp_path, wait) -> None:
    pids = tmp_path / "pids"

    def fail() -> None:
        with stuck.working_container():
            while wait and not (pids.exists() and pids.read_text()):
                time.sleep(0.01)
            raise ImageError("beside")

    with pytest.raises(ImageError, match=r"^beside$"):
        fail()
    for pid in pids.read_text().split() if pids.exists() else ():
        assert not Path(f"/proc/{pid}").exists()


CACHE = Path(os.environ.get("WARMSTART_CACHE") or default_cache())
# Whatever buildah's own options would take apart: shells, variables, lists.
ODD = ["--a b", "", "$HOME", '["c"]', "d=e,f", "'\"\\"]


@pytest.mark.node
def test_an_image_has_the_files_and_the_words_as_they_are(tmp_path) -> None:
    tree = tree_path(CACHE)
    if os.geteuid() != 0 or not (tree / "usr/bin/buildah").exists():
        pytest.skip("needs root and the tools")
    annotations = {CREATED: "2025-01-02T03:04:05+00:00", **{f"org.example.{i}": word for i, word in enumerate(ODD)}}
    labels = {f"key{word}": word for word in ODD}
    with open_workspace("test") as workspace, enter(tree, workspace) as session:
        files, addition = workspace / "files", workspace / "addition"
        (files / "checkpoint").mkdir(parents=True)
        (files / "checkpoint/pages-1.img").write_bytes(bytes(5000))
        (files / "checkpoint/pages-1.img").chmod(0o600)
        (files / "spec.dump").write_text("{}")
        buildah = Buildah(session.argv(["buildah"]), session.environment, workspace / "buildah")
        with buildah.working_container() as container:
            container.commit(files, f"oci:{addition}", annotations=annotations, labels=labels, cmd=ODD).result()
        image = read_image(addition)
        config = json.loads(read_document(addition, image.manifest.config))
        (layer,) = image.manifest.layers
        with open_blob(addition, layer) as blob, tarfile.open(fileobj=io.BytesIO(blob.read())) as tar:
            found = list(tar)
        members = {member.name: (member.mode, member.uid, member.gid, member.size) for member in found}
    assert members == {
        "checkpoint": (0o755, 0, 0, 0),
        "checkpoint/pages-1.img": (0o600, 0, 0, 5000),
        "spec.dump": (0o644, 0, 0, 2),
    }
    # The same content makes the same layer.
    assert {member.mtime for member in found} == {0}
    assert annotations.items() <= image.manifest.annotations.items()
    assert labels.items() <= image.config.labels.items()
    assert config["config"]["Cmd"] == ODD
