"""A full disk: one kind of error, whoever meets it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from warmstart.core.disk_space import NoSpaceError, explain_full_disk
from warmstart.core.errors import (
    AppError,
    CheckpointError,
    ClusterError,
    EngineError,
    HostError,
    ImageError,
    RegistryError,
    VerifyError,
    WarmstartError,
)
from warmstart.core.process import ProgramError
from warmstart.image.layout import write_index
from warmstart.image.manifest import Descriptor

# Writes to a file system of 1 MiB, in a mount namespace of its own, and says how the error looks.
SCRIPT = """
import json, sys
from pathlib import Path
from warmstart.core import process
from warmstart.core.errors import WarmstartError
from warmstart.core.workspace import open_workspace
from warmstart.image.layout import read_image, write_archive, write_layout
full = Path(sys.argv[1])

def write(workspace):
    (workspace / "file").write_bytes(bytes(2 << 20))

def run_program(workspace):
    process.run(["dd", "if=/dev/zero", f"of={workspace}/file", "bs=1M", "count=2"], timeout_s=60)

def add_archive(workspace):
    write_archive(Path(sys.argv[3]), read_image(Path(sys.argv[3])), full / "out.tar", name="x:1")

def add_layout(workspace):
    write_layout(Path(sys.argv[3]), read_image(Path(sys.argv[3])), full / "out", name="x:1")

try:
    with open_workspace("full") as workspace:
        globals()[sys.argv[2]](workspace)
except WarmstartError as error:
    print(json.dumps([error.exit_code, error.brief, error.hint, [path.name for path in full.iterdir()]]))
"""


@pytest.fixture
def fill(tmp_path) -> Callable[..., tuple[int, str, str, list[str]]]:
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    full = tmp_path / "full"
    full.mkdir()

    def run(action: str, layout: Path, parent: Path) -> tuple[int, str, str, list[str]]:
        mounted = f'mount -t tmpfs -o size=1m small "{full}" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-ec", mounted, "sh", sys.executable, "-c", SCRIPT]
        environment = {**os.environ, "WARMSTART_TMPDIR": str(parent)}
        done = subprocess.run([*command, full, action, layout], env=environment, stdout=subprocess.PIPE, check=True)
        return tuple(json.loads(done.stdout))

    return run


@pytest.fixture
def big_layout(tmp_path) -> Path:
    path = tmp_path / "layout"
    (path / "blobs/sha256").mkdir(parents=True)

    def add(data: bytes, media_type: str) -> dict:
        digest = sha256(data).hexdigest()
        (path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    kind = "application/vnd.oci.image"
    config = add(b'{"os": "linux", "architecture": "amd64"}', f"{kind}.config.v1+json")
    layer = add(bytes(2 << 20), f"{kind}.layer.v1.tar")
    document = {"schemaVersion": 2, "mediaType": f"{kind}.manifest.v1+json", "config": config, "layers": [layer]}
    manifest = add(json.dumps(document).encode(), document["mediaType"])
    write_index(path, Descriptor(manifest["mediaType"], manifest["digest"], manifest["size"]))
    return path


@pytest.mark.parametrize("action", ["write", "run_program"])
def test_a_full_workspace_is_one_error_whoever_writes(fill, big_layout, tmp_path, action):
    code, brief, hint, left = fill(action, big_layout, tmp_path / "full")
    assert code == HostError.exit_code
    assert brief.startswith(f"cannot write {tmp_path}/full/warmstart-full-")
    assert brief.endswith(f": no space left on small (tmpfs, mounted on {tmp_path}/full)")
    assert "WARMSTART_TMPDIR" in hint
    assert left == []


@pytest.mark.parametrize(("action", "name"), [("add_archive", "out.tar"), ("add_layout", ".out.")])
def test_a_full_output_is_named(fill, big_layout, tmp_path, action, name):
    code, brief, hint, left = fill(action, big_layout, tmp_path)
    assert code == HostError.exit_code
    assert brief.startswith(f"cannot write {tmp_path}/full/{name}")
    assert "no space left on small (tmpfs" in brief
    assert "another directory" in hint
    assert left == []


@pytest.mark.linux
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/var/tmp/x"),
        ProgramError(
            ["skopeo"], "failed", returncode=1, stderr="writing blob: write /var/tmp/x: no space left on device"
        ),
        ImageError(
            "buildah commit failed", details=['copying "/var/tmp/x": write /var/tmp/x: no space left on device']
        ),
        EngineError("could not create the container: mkdir /var/tmp/x: no space left on device"),
        CheckpointError("CRIU failed", details=["Error (criu/image.c:42): write /var/tmp/x: No space left on device"]),
    ],
)
def test_a_program_may_report_it(error):
    full = explain_full_disk(error, Path("/var/tmp"), "do this")
    assert isinstance(full, NoSpaceError)
    assert full.exit_code == HostError.exit_code
    assert full.brief.startswith("cannot write /var/tmp/x: no space left on ")
    assert full.hint == "do this"


@pytest.mark.linux
def test_a_path_in_a_root_of_the_programs_own_is_not_named():
    error = ImageError("skopeo failed", details=["unpacking failed: open /keys: no space left on device"])
    full = explain_full_disk(error, Path("/var/tmp/place"))
    assert full.brief.startswith("cannot write /var/tmp/place: no space left on ")
    assert full.details == (error.brief, *error.details)


@pytest.mark.linux
def test_without_a_path_the_place_is_named():
    error = CheckpointError("CRIU could not dump: Can't write page: No space left on device")
    full = explain_full_disk(error, Path("/var/tmp/place"))
    assert full.brief.startswith("cannot write /var/tmp/place: no space left on ")
    assert full.details == (error.brief,)


@pytest.mark.parametrize(
    "error", [OSError(errno.EDQUOT, "x", "/var/tmp/x"), ImageError("/var/tmp/x: Disk quota exceeded")]
)
def test_a_quota_is_told_from_a_full_disk(error):
    assert "cannot write /var/tmp/x: the disk quota is exceeded" in explain_full_disk(error).brief


def test_a_cause_is_enough():
    error = VerifyError("the image did not restore")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert explain_full_disk(error, Path("/var/tmp")).details == (error.brief,)


@pytest.mark.parametrize(
    "error",
    [
        AppError("it died", details=["write: No space left on device"]),
        ClusterError("the pod failed: /var/lib/x: no space left on device"),
        RegistryError("503: no space left on device"),
        OSError(errno.ENOSPC, "No space left on device", "/sys/fs/cgroup/cpuset/x/cgroup.procs"),
        OSError(errno.EACCES, "Permission denied", "/var/tmp/x"),
        WarmstartError("something else"),
    ],
)
def test_other_errors_stay_as_they_are(error):
    assert explain_full_disk(error, Path("/var/tmp")) is None


def test_it_is_explained_once():
    first = explain_full_disk(OSError(errno.ENOSPC, "x", "/var/tmp/x"))
    first.__cause__ = OSError(errno.ENOSPC, "x", "/var/tmp/x")
    assert explain_full_disk(first) is None


def test_errors_that_cause_each_other_come_to_an_end():
    first, second = HostError("first"), HostError("second")
    first.__cause__, second.__cause__ = second, first
    assert explain_full_disk(first) is None
