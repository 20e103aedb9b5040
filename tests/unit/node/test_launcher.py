"""The launcher and its CRIU: built once for the same sources, whole or not at all; with a fake mmdebstrap and node."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from warmstart.core.errors import HostError
from warmstart.core.process import ProgramError
from warmstart.node import cache as making
from warmstart.node import compiler, launcher
from warmstart.node.cache import lock_cache
from warmstart.node.launcher import ensure_launcher, find_launcher, find_sources, update_launcher
from warmstart.node.trust import find_damage

pytestmark = pytest.mark.linux


class FakeNode:
    """Makes what the build script makes, if there is an error not that."""

    error: ProgramError | None = None
    built = 0

    def run(self, command: Sequence[str | Path], *, timeout_s: float, cwd: str, host_network: bool) -> None:
        assert host_network
        assert (Path(cwd) / "sources/src/main.c").exists()
        if FakeNode.error:
            raise FakeNode.error
        FakeNode.built += 1
        script, out = Path(command[0]), Path(command[-1])
        (out / "source").mkdir(parents=True)
        for name in ("criu", "source/criu.tar.xz") if script.parent.name == "criu" else ("launcher",):
            (out / name).write_text(name)
            (out / name).chmod(0o755)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    @contextmanager
    def enter(root: Path, workspace: Path) -> Iterator[FakeNode]:
        yield FakeNode()

    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor word; do last=$word; done\nmkdir -p "$last"\ntouch "$last/.checksums"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("WARMSTART_TMPDIR", str(tmp_path))
    monkeypatch.delenv("WARMSTART_DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(making, "ISOLATED", ())
    monkeypatch.setattr(compiler, "enter", enter)
    monkeypatch.setattr(FakeNode, "error", None)
    monkeypatch.setattr(FakeNode, "built", 0)
    return tmp_path / "cache"


def test_they_are_built_once(cache):
    told: list[str] = []
    programs = ensure_launcher(cache, told.append)
    assert (programs.launcher.read_text(), programs.criu.read_text()) == ("launcher", "criu")
    assert (programs.source / "criu.tar.xz").exists()
    assert any("compiling the launcher" in line for line in told)
    assert ensure_launcher(cache, told.append) == programs
    assert FakeNode.built == 2


def test_they_are_built_again_by_an_update_if_they_were_built(cache):
    with lock_cache(cache, print):
        update_launcher(cache, print)
    assert FakeNode.built == 0
    old = ensure_launcher(cache, print)
    with lock_cache(cache, print):
        update_launcher(cache, print)
    assert FakeNode.built == 4
    new = ensure_launcher(cache, print)
    assert new != old
    assert (new.launcher.read_text(), new.criu.read_text()) == ("launcher", "criu")
    assert find_launcher(cache)[-1] == new.directory
    assert FakeNode.built == 4
    assert old.launcher.exists()


@pytest.mark.parametrize("name", ["launcher", "criu"])
def test_programs_that_were_changed_do_not_go_into_an_image(cache, name):
    programs = ensure_launcher(cache, print)
    (programs.directory / name).write_text("evil")
    assert any(f"{name}: its content" in line for line in find_damage(programs.directory))
    with pytest.raises(HostError, match="files have changed since they were made"):
        ensure_launcher(cache, print)


def test_other_sources_are_other_programs(cache, tmp_path, monkeypatch):
    sources = tmp_path / "sources"
    (sources / "src").mkdir(parents=True)
    (sources / "criu").mkdir()
    (sources / "build-packages").write_text("gcc\n")
    (sources / "src/main.c").write_text("int main;")
    monkeypatch.setattr(launcher, "find_sources", lambda: sources)
    first = ensure_launcher(cache, print)
    (sources / "README.md").write_text("a manual changes nothing")
    assert ensure_launcher(cache, print) == first
    (sources / "src/main.c").write_text("int main, other;")
    second = ensure_launcher(cache, print)
    assert second != first
    assert FakeNode.built == 3, "CRIU is compiled again only when its own sources change"
    (sources / "criu/fix.patch").write_text("+ a fix")
    assert ensure_launcher(cache, print) != second
    assert FakeNode.built == 5


def test_a_compiler_that_fails_is_the_hosts_fault(cache, monkeypatch):
    error = ProgramError(["nsenter"], "failed with exit status 1", returncode=1, stderr="main.c:1: error")
    monkeypatch.setattr(FakeNode, "error", error)
    with pytest.raises(HostError, match="cannot compile the launcher's CRIU") as caught:
        ensure_launcher(cache, print)
    assert caught.value.details == ("main.c:1: error",)
    assert list((cache / "programs").iterdir()) == []


def test_the_sources_of_a_checkout_are_beside_the_package():
    assert (find_sources() / "criu/restore-without-capabilities.patch").exists()
