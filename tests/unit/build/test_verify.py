"""Images that are to be verified are found where the user says, and told from those that warmstart did not make."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import checkpoint, make_layout

from warmstart.build import cold_start, kernel_state, launcher_report, verify
from warmstart.build.base import check_base
from warmstart.build.verify import Restore, Subject, check_content, read_identities, verify_image
from warmstart.build.verify_source import verify_source
from warmstart.cli.context import default_cache
from warmstart.core.errors import EngineError, ImageError, VerifyError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_source
from warmstart.dump.criu.fingerprint import read_identity
from warmstart.dump.state.model import KernelState
from warmstart.dump.state.read import read_state
from warmstart.image.cache.blobs import BlobCache
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.image.layout import CheckedReader, open_blob, read_image
from warmstart.image.manifest import Descriptor
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.node.tree import tree_path
from warmstart.probe.readiness import Readiness
from warmstart.recipe.model import Container, Probe, Restorer, TcpSocket


@pytest.mark.node
def test_a_relative_path_starts_at_the_current_directory(tmp_path, monkeypatch):
    cache = Path(os.environ.get("WARMSTART_CACHE") or default_cache())
    if os.geteuid() != 0 or not tree_path(cache).is_dir():
        pytest.skip("needs root and the tools directory")
    make_layout(tmp_path / "app", tar_of(entry("app", b"x")), annotations={})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match="was not built by warmstart"):
        verify_source(
            parse_source("oci:app"),
            cache,
            RegistryAccess(),
            Progress(SilentListener()),
            decide=lambda _, __, claimed: claimed,
        )


# Its content


@pytest.fixture
def base_lists(tmp_path) -> BlobCache:
    """Lists of the members of the two layers that `make_two` puts below the checkpoint."""
    known = BlobCache(tmp_path / "cache")
    known.prepare()
    check_base(make_two(tmp_path / "base"), "a base image", known)
    return known


def make_two(path: Path, *more: bytes) -> Path:
    layers = (tar_of(entry("app", b"x" * 5000)), tar_of(entry("lib", b"y" * 5000)))
    return make_layout(path, *layers, *more, annotations={CHECKPOINT_NAME: "app"} if more else {})


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("listed", [False, True])
def test_each_layer_is_checked_before_it_is_run(tmp_path, base_lists, number, listed):
    layout = make_two(tmp_path / "image", tar_of(*checkpoint()))
    check_content(layout, "an image", base_lists if listed else None)
    digest = read_image(layout).manifest.layers[number].digest
    path = layout / "blobs" / digest.replace(":", "/")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the padding at the end of the tar
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"{digest} is damaged"):
        check_content(layout, "an image", base_lists if listed else None)
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        check_content(layout, "an image", base_lists if listed else None)


@pytest.mark.parametrize("listed", [False, True])
def test_each_layer_without_a_checkpoint_is_read_once(tmp_path, monkeypatch, base_lists, listed):
    layout = make_two(tmp_path / "image", tar_of(*checkpoint()))
    opened: list[str] = []

    def open_recorded(layout: Path, descriptor: Descriptor) -> AbstractContextManager[CheckedReader]:
        opened.append(descriptor.digest)
        return open_blob(layout, descriptor)

    monkeypatch.setattr("warmstart.image.open.open_blob", open_recorded)
    check_content(layout, "an image", base_lists if listed else None)
    first, second, holder = (layer.digest for layer in read_image(layout).manifest.layers)
    assert opened == [first, second, holder, holder]


# What counts as a restore


NOTHING = KernelState()
PROBE = Probe(TcpSocket(8080))
CONTAINER = Container(image="base", readiness_probe=PROBE)


class FakeCri:
    """A runtime whose containers come up as they are told to: `said` is logged by one that may restore, `cold` else."""

    proc = Path("/proc")

    def __init__(
        self,
        *,
        restored: bool = True,
        refusal: EngineError | None = None,
        said: str = "",
        cold: str = "",
        images: Sequence[str] = ("app:1",),
    ) -> None:
        self._restored, self._refusal, self._said, self._cold = restored, refusal, said, cold
        self._images = list(images)
        self.names: list[str] = []
        self.containers: list[Container] = []

    def list_images(self) -> list[str]:
        return self._images

    @contextmanager
    def start(self, container: Container, image: str, name: str, **_: object) -> Iterator[object]:
        self.names.append(name)
        self.containers.append(container)
        if self._refusal:
            raise self._refusal
        address = f"10.89.0.{len(self.names) + 1}"
        said = self._cold if cold_start.COLD in container.env else self._said
        log = [said] if said else []
        yield SimpleNamespace(
            address=address, requested_at=1.0, started_at=1.5, restored=self._restored, pid=1, log_tail=lambda _: log
        )


@dataclass(frozen=True)
class FakeEngine:
    cri: FakeCri
    root: Path
    proc: Path = FakeCri.proc
    session: None = None
    stores: tuple[Path, ...] = ()

    def import_image(self, *_: object) -> None:
        """Every image is there."""


@pytest.fixture
def restore(monkeypatch, tmp_path) -> Callable[..., tuple[Restore, ...]]:
    """Verify an image with a fake runtime; `found` is the identity of what runs, or the error of looking at it."""

    def run(
        cri: FakeCri,
        *,
        found: str | OSError = "identity",
        restorers: Sequence[Restorer] = (Restorer.RUNTIME,),
        state: KernelState = NOTHING,
        force: bool = False,
        progress: Progress | None = None,
    ) -> tuple[Restore, ...]:
        engine = FakeEngine(cri, tmp_path)

        @contextmanager
        def start_engine(*_: object, **__: object) -> Iterator[object]:
            yield engine

        def read_identity(*_: object) -> str:
            if isinstance(found, OSError):
                raise found
            return found

        monkeypatch.setattr(verify, "start_engine", start_engine)
        monkeypatch.setattr(verify, "read_identity", read_identity)
        for module in (verify, cold_start):
            monkeypatch.setattr(module, "wait_first_success", lambda *_, **__: Readiness(0.5, 1, at=time.monotonic()))
        subject = Subject(tmp_path, "app:1", CONTAINER, "identity", restorers, state, force=force)
        progress = progress or Progress(SilentListener())
        return verify_image(subject, engine, progress)

    return run


def test_an_image_is_restored_more_than_once_in_pods_of_their_own(restore):
    cri = FakeCri()
    restores = restore(cri)
    assert [seen.address for seen in restores] == ["10.89.0.2", "10.89.0.3"]
    assert [seen.runtime_s for seen in restores] == [0.5, 0.5]
    assert len(set(cri.names)) == 2


def test_a_cold_start_is_no_restore(restore):
    with pytest.raises(VerifyError, match="started the image cold"):
        restore(FakeCri(restored=False))


def test_a_new_process_is_no_restore(restore):
    with pytest.raises(VerifyError, match="not the dumped one"):
        restore(FakeCri(), found="another")


def test_a_process_that_ends_at_once_is_no_restore(restore):
    with pytest.raises(VerifyError, match="ended right after its first answer"):
        restore(FakeCri(), found=ProcessLookupError(3, "No such process"))


@pytest.fixture
def first_thread() -> KernelState:
    """Return the state of the first thread of process 1 of this machine, which is the fake's container."""
    return KernelState({"thread 1": read_state(Path("/proc"), 1).subjects["thread 1"]})


def change(state: KernelState, **facts: str) -> KernelState:
    return KernelState({subject: {**before, **facts} for subject, before in state.subjects.items()})


@pytest.mark.parametrize("force", [False, True])
def test_a_process_that_has_lost_a_restriction_is_refused(restore, first_thread, force):
    assert restore(FakeCri(), state=first_thread, force=force)
    with pytest.raises(VerifyError, match="the runtime does not restore everything") as caught:
        restore(FakeCri(), state=change(first_thread, Uid="77 77 77 77"), force=force)
    (line,) = caught.value.details
    assert re.search(r"\(1\): user ids 0 .*, was 77 .*\[lost-restriction\]$", line)


def test_what_the_application_may_notice_is_a_warning(restore, first_thread):
    progress = Progress(SilentListener())
    restore(FakeCri(), state=change(first_thread, nice="-20"), progress=progress)
    (warning,) = progress.warnings
    assert warning.startswith("the runtime does not restore everything: ")
    assert f"nice value {first_thread.subjects['thread 1']['nice']}, was -20" in warning


def test_a_process_that_changes_by_itself_has_lost_nothing(restore, first_thread, monkeypatch):
    """Each look but the first shows it as it was."""
    looks = iter([change(first_thread, Groups="7")])
    monkeypatch.setattr(kernel_state, "read_state", lambda *_, **__: next(looks, first_thread))
    progress = Progress(SilentListener())
    restore(FakeCri(), state=first_thread, progress=progress)
    assert progress.warnings == []


def test_what_only_one_restore_shows_is_not_the_restorers_fault(restore, first_thread, monkeypatch):
    changed = change(first_thread, Groups="7")
    looks = iter([changed, changed])
    monkeypatch.setattr(kernel_state, "read_state", lambda *_, **__: next(looks, first_thread))
    assert restore(FakeCri(), state=first_thread)


def test_a_restore_that_loses_nothing_needs_no_second_look(restore, first_thread, monkeypatch):
    looks = iter([first_thread])
    monkeypatch.setattr(kernel_state, "read_state", lambda *_, **__: next(looks))
    assert len(restore(FakeCri(), state=first_thread)) == 2


def test_a_refusal_is_told_with_its_reasons(restore):
    refusal = EngineError("could not create the container: net: no such device (criu/net.c:1)", details=["more"])
    with pytest.raises(VerifyError) as caught:
        restore(FakeCri(refusal=refusal))
    assert caught.value.brief == f"the image did not restore: {refusal.brief}"
    assert caught.value.details == ("more",)
    assert "nothing was published" in caught.value.hint


def test_a_child_that_has_ended_is_passed_over():
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert read_identity(Path("/proc"), os.getpid()) in read_identities(Path("/proc"), os.getpid())
    with pytest.raises(OSError, match=str(ended.pid)):
        read_identities(Path("/proc"), ended.pid)


def test_an_image_is_not_restored_beside_another(restore):
    """The other may be the base image, which a fresh node does not have."""
    with pytest.raises(VerifyError, match="cannot verify app:1: the runtime also knows localhost/base:1"):
        restore(FakeCri(images=["app:1", "localhost/warmstart/pause:1", "localhost/base:1"]))


# Images that restore themselves


RESTORED, OFF = "warmstart: restored in 47 ms", "warmstart: cold start: WARMSTART is off (0 ms)"


def test_an_image_that_restores_itself_is_also_seen_to_start_cold(restore):
    cri = FakeCri(restored=False, said=RESTORED, cold=OFF)
    restores = restore(cri, restorers=(Restorer.SELF,))
    assert [(seen.restorer, seen.launcher_ms) for seen in restores] == [(Restorer.SELF, 47)] * 2
    assert sorted(container.env for container in cri.containers) == [(), (), (("WARMSTART", "off"),)]


def test_a_cold_start_leaves_the_processor_to_the_restores_beside_it(restore):
    cri = FakeCri(restored=False, said=RESTORED, cold=OFF)
    restore(cri, restorers=(Restorer.SELF,))
    requests = {container.env: container.resources.cpu_request_millis for container in cri.containers}
    assert requests == {(): None, (("WARMSTART", "off"),): 125}


def test_by_both_it_is_restored_by_each(restore):
    cri = FakeCri(said=RESTORED, cold=OFF)
    restores = restore(cri, restorers=(Restorer.RUNTIME, Restorer.SELF))
    assert [seen.restorer for seen in restores] == [Restorer.RUNTIME] * 2 + [Restorer.SELF] * 2


def test_a_cold_start_says_why_the_image_did_not_restore_itself(restore):
    reason = "warmstart: cold start: uid is 0, the checkpoint was made as 1000 (0 ms)"
    with pytest.raises(VerifyError, match=r"instead of restoring itself: .*uid is 0"):
        restore(FakeCri(said=reason, cold=OFF), restorers=(Restorer.SELF,))


def test_the_time_of_the_steps_after_a_restore_is_not_the_restores(restore):
    line = "warmstart: restored in 47 ms, after-restore steps in 80 ms"
    restores = restore(FakeCri(said=line, cold=OFF), restorers=(Restorer.SELF,))
    assert [seen.launcher_ms for seen in restores] == [47, 47]


def test_a_step_after_the_restore_that_failed_is_named(restore):
    line = "warmstart: restored in 47 ms, but after-restore step 1 (exec x) failed: exit status 3"
    with pytest.raises(VerifyError, match=r"restored itself, but after-restore step 1 \(exec x\) failed"):
        restore(FakeCri(said=line, cold=OFF), restorers=(Restorer.SELF,))


def test_an_image_that_cannot_start_cold_is_refused(restore):
    with pytest.raises(VerifyError, match="restored itself although WARMSTART=off was set"):
        restore(FakeCri(said=RESTORED, cold=RESTORED), restorers=(Restorer.SELF,))


def test_a_launcher_that_says_nothing_did_nothing(restore, monkeypatch):
    monkeypatch.setattr(launcher_report, "LOG_S", 0.1)
    with pytest.raises(VerifyError, match="logged neither a restore nor a cold start"):
        restore(FakeCri(cold=OFF), restorers=(Restorer.SELF,))
