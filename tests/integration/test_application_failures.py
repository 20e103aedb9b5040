"""If the application fails, the command reports the reason, exits with its code, and leaves nothing behind."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from support.builds import READY, write_recipe
from support.evaluator import IMAGES, make_recipe, path_of
from support.leaks import take_snapshot, wait_until_clean

from warmstart.build import verify
from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.errors import AppError, ImageError, VerifyError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.image.manifest import find_host_platform
from warmstart.node.keeper import Bind

pytestmark = pytest.mark.node

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_build(base_archive, cache, area, tmp_path, monkeypatch) -> Run:
    """Run `warmstart build` with additional fields in the recipe, and check that it leaves nothing behind."""
    token = secrets.token_hex(4)
    directory = area / token
    directory.mkdir()
    monkeypatch.setenv("WARMSTART_TMPDIR", str(directory))

    def run(container: dict, **more: object) -> subprocess.CompletedProcess[str]:
        recipe = write_recipe(tmp_path / "recipe.yaml", base_archive, "localhost/tests/failing:1", container, **more)
        command = [sys.executable, "-m", "warmstart", "--cache-dir", cache, "build", recipe]
        before = take_snapshot(token, directory, tmp_path)
        done = subprocess.run(
            [*command, "-o", f"oci:{tmp_path}/out"], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert not wait_until_clean(before, lambda: take_snapshot(token, directory, tmp_path), limit_s=0)
        assert not done.stdout
        return done

    return run


def test_it_ends_before_it_is_ready(run_build):
    done = run_build({"env": [{"name": "EXIT_MS", "value": "300"}]})
    assert done.returncode == AppError.exit_code
    assert "the container exited" in done.stderr
    assert "exit code 7" in done.stderr
    assert "giving up, as I was told" in done.stderr


def test_it_never_becomes_ready(run_build):
    probe = {**READY, "failureThreshold": 2}
    done = run_build({"env": [{"name": "START_MS", "value": "100000"}], "readinessProbe": probe})
    assert done.returncode == AppError.exit_code
    assert "not ready" in done.stderr
    assert "503" in done.stderr
    assert ":8080/ready" in done.stderr


def test_a_warm_up_step_fails(run_build):
    done = run_build({}, warmup=[{"httpGet": {"path": "/no-such-page", "port": 8080}, "repeat": 3}])
    assert done.returncode == AppError.exit_code
    assert "warmup[0]" in done.stderr
    assert "404" in done.stderr
    assert "attempt 1 of 3" in done.stderr


def test_the_base_image_is_for_another_machine(run_build, open_node, base_archive, tmp_path):
    script = """set -eu
    tool() { buildah --storage-driver vfs --root "$PWD/store" --runroot "$PWD/run" "$@"; }
    tool config --arch s390x "$(tool from --name foreign oci-archive:$1)"
    tool commit -q foreign oci-archive:foreign.tar
    """
    with open_node(Bind(str(base_archive))) as session:
        session.run(["sh", "-c", script, "sh", base_archive], cwd=str(session.workspace), timeout_s=60)
        shutil.copy(session.workspace / "foreign.tar", tmp_path)
    done = run_build({"image": f"oci-archive:{tmp_path}/foreign.tar"})
    assert done.returncode == ImageError.exit_code
    assert f"foreign.tar is for linux/s390x, but this machine is {find_host_platform()}" in done.stderr


@pytest.mark.skipif(not (IMAGES / "python.tar").exists(), reason="make images")
def test_it_is_not_ready_after_a_restore(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "LIMIT_S", 2.0)
    look = "print('looking around') or 1 / ('verify-' not in open('/etc/hosts').read())"
    probe = {"httpGet": {"path": path_of(look), "port": 8080}, "periodSeconds": 1, "failureThreshold": 30}
    recipe = make_recipe("localhost/tests/failing:1", container={"readinessProbe": probe}, restore=["runtime"])
    options = BuildOptions(cache, Output(Transport.OCI, tmp_path / "out"))
    with pytest.raises(VerifyError, match=r"^the image did not restore: the container was not ready") as caught:
        build_image(recipe, options, Progress(SilentListener()))
    assert "  looking around" in caught.value.details
    assert not (tmp_path / "out").exists()
