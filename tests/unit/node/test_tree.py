"""The tools directory: made once, whole or not at all; with a fake mmdebstrap and a fake node."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import ClassVar

import pytest

from warmstart.core.errors import HostError
from warmstart.core.process import ProgramError
from warmstart.node import cache as making
from warmstart.node import packages
from warmstart.node import programs as programs_module
from warmstart.node import tree as tree_module
from warmstart.node.advisories import RUNC
from warmstart.node.cache import lock_cache
from warmstart.node.packages import find_architecture
from warmstart.node.programs import SHIM
from warmstart.node.record import read_record
from warmstart.node.session import EXPIRED
from warmstart.node.tree import (
    CONTENTS,
    ensure_tree,
    read_records,
    remove_trees,
    require_tested,
    tree_key,
    tree_path,
    update_tree,
    verify_tree,
)
from warmstart.node.trust import MANIFEST

pytestmark = pytest.mark.linux
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away, or to have them checked")

# Writes down how it was called and what was to be seen then; the target comes after the suite.
MMDEBSTRAP = """\
#!/bin/sh
for word; do [ "$last" = forky ] && target=$word; last=$word; done
echo "$*" >> {log}
ls {cache}/trees 2>/dev/null >> {log}
echo "I: running apt-get update..."
echo "not for users"
mkdir -p "$target/usr/local/bin" "$target/usr/local/lib" "$target/usr/local/sbin" "$target/usr/bin" "$target/usr/sbin"
mkdir -p "$target/var/cache/apt/archives"
echo "${{FAKE_RELEASE:-1}}" > "$target/var/cache/apt/archives/base-files_1%3a${{FAKE_RELEASE:-1}}_amd64.deb"
for word; do case $word in --customize-hook=*) sh -c "${{word#*=}}" hook "$target" ;; esac; done
rm -r "$target/var/cache/apt"
{more}
echo "I: cleaning up..."
"""


class FakeNode:
    """Runs the scripts of the tree: makes what they make."""

    scripts: ClassVar[list[str]] = []

    def __init__(self, root: Path, workspace: Path) -> None:
        self.root = root
        self.workspace = workspace

    def run(self, command: Sequence[str], *, timeout_s: float, cwd: str, host_network: bool = False) -> None:
        script = command[-1]
        if script == tree_module.PAUSE_SCRIPT:
            (Path(cwd) / "layout").mkdir()
            (Path(cwd) / "layout" / "oci-layout").touch()
            return
        assert host_network
        FakeNode.scripts.append(script)
        for name in ("crio", "pinns", "runc", SHIM):
            if f"/out/{name} " in script:
                (Path(cwd) / "out" / name).write_text(f"compiled {name}")
                (Path(cwd) / "out" / name).chmod(0o755)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WARMSTART_TMPDIR", str(tmp_path))
    monkeypatch.delenv("WARMSTART_DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(making, "ISOLATED", ())

    @contextmanager
    def fake_enter(root: Path, workspace: Path) -> Iterator[FakeNode]:
        yield FakeNode(root, workspace)

    monkeypatch.setattr(tree_module, "enter", fake_enter)
    monkeypatch.setattr(programs_module, "enter", fake_enter)
    monkeypatch.setattr(FakeNode, "scripts", [])
    lock(tmp_path, monkeypatch, "")
    install(tmp_path, monkeypatch)
    return tmp_path / "cache"


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> None:
    """Put a fake mmdebstrap on PATH."""
    program = tmp_path / "bin" / "mmdebstrap"
    program.parent.mkdir(exist_ok=True)
    program.write_text(MMDEBSTRAP.format(log=tmp_path / "log", cache=tmp_path / "cache", more=more))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have these packages for the tested ones."""
    (tmp_path / "packages.lock").write_text(text)
    packages._read_lock.cache_clear()
    monkeypatch.setattr(packages, "LOCK_FILE", tmp_path / "packages.lock")


def read_calls(tmp_path: Path) -> list[str]:
    return [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("--")]


def list_all(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.glob("*/*"))


def ignore(_: str) -> None:
    pass


# Its key


@pytest.mark.parametrize("field", [field.name for field in fields(CONTENTS)])
def test_the_key_changes_with_the_contents(field):
    old = getattr(CONTENTS, field)
    new = {
        "suite": "trixie",
        "packages": (*CONTENTS.packages, "strace"),
        "build_packages": CONTENTS.build_packages[1:],
        "programs": (replace(CONTENTS.programs[0], version="v1.36.4"), *CONTENTS.programs[1:]),
        "layout": CONTENTS.layout + 1,
    }[field]
    assert new != old
    assert tree_key(replace(CONTENTS, **{field: new})) != tree_key()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (programs_module, "GO_SCRIPT"),
        (programs_module, "SHIM_SCRIPT"),
        (tree_module, "CRIU_WRAPPER"),
        (tree_module, "PAUSE_SCRIPT"),
    ],
)
def test_the_key_changes_with_how_it_is_made(monkeypatch, module, name):
    before = tree_key()
    monkeypatch.setattr(module, name, "other")
    assert tree_key() != before


@pytest.mark.parametrize("section", ["tools", "compiler"])
def test_the_key_changes_with_the_tested_packages(monkeypatch, tmp_path, section):
    before = tree_key()
    lock(tmp_path, monkeypatch, f"[{section} {find_architecture()}]\nlibc6 2.42-1 0123\n")
    assert tree_key() != before


def test_the_key_changes_with_the_sources(monkeypatch, tmp_path):
    before = tree_key()
    (tmp_path / "other.c").write_text("other")
    monkeypatch.setattr(programs_module, "SHIM_SOURCE", tmp_path / "other.c")
    assert tree_key() != before


def test_the_key_is_the_same_in_each_process():
    command = [sys.executable, "-c", "from warmstart.node.tree import tree_key; print(tree_key())"]
    keys = {
        subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert [len(key) for key in keys] == [12]


# Its making


def test_a_tree_is_made_of_packages_and_programs(cache, tmp_path):
    told: list[str] = []
    tree = ensure_tree(cache, told.append)
    assert tree == tree_path(cache)
    assert (tree / "usr/local/bin/crio").read_text() == "compiled crio"
    assert (tree / "usr/local/bin/pinns").exists()
    assert (tree / "usr/bin/runc").read_text() == "compiled runc"
    assert (tree / "usr/local/lib" / SHIM).exists()
    assert (tree / tree_module.PAUSE_LAYOUT[1:] / "oci-layout").exists()
    assert os.access(tree / "usr/local/sbin/criu", os.X_OK)
    assert stat.S_IMODE(tree.stat().st_mode) == 0o755
    compiler, packages = read_calls(tmp_path)
    assert f"--include={','.join(CONTENTS.build_packages)}" in compiler
    assert f"--include={','.join(CONTENTS.packages)}" in packages
    assert re.search(f" forky {cache}/\\S+$", packages)
    assert "tools: running apt-get update" in told
    assert any("compiling crio v1.36.3" in line for line in told)
    assert not any("not for users" in line for line in told)


def test_a_tree_that_is_there_is_used(cache, tmp_path, monkeypatch):
    tree = ensure_tree(cache, ignore)
    calls = read_calls(tmp_path)
    told: list[str] = []
    # Not even root is needed.
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ensure_tree(cache, told.append) == tree
    assert read_calls(tmp_path) == calls
    assert told == []


def test_programs_are_not_compiled_again_for_other_packages(cache, tmp_path):
    ensure_tree(cache, ignore)
    compiled = len(FakeNode.scripts)
    shutil.rmtree(cache / "trees")
    ensure_tree(cache, ignore)
    assert len(read_calls(tmp_path)) == 3
    assert len(FakeNode.scripts) == compiled


def test_a_change_to_one_program_does_not_compile_the_others(cache, monkeypatch):
    ensure_tree(cache, ignore)
    FakeNode.scripts.clear()
    crio, runc = CONTENTS.programs
    monkeypatch.setattr(tree_module, "CONTENTS", replace(CONTENTS, programs=(crio, replace(runc, version="v1.5.4"))))
    monkeypatch.setattr(tree_module, "tree_key", lambda: "0123456789ab")
    ensure_tree(cache, ignore)
    (script,) = FakeNode.scripts
    assert "github.com/opencontainers/runc@v1.5.4" in script


def test_modules_are_known_by_their_hashes(cache):
    ensure_tree(cache, ignore)
    assert [
        program.sum for program in CONTENTS.programs if any(f'"Sum": "{program.sum}"' in s for s in FakeNode.scripts)
    ] == [program.sum for program in CONTENTS.programs]


def test_runc_has_the_fix():
    (runc,) = (program for program in CONTENTS.programs if program.name == "runc")
    assert RUNC.is_fixed(runc.version)
    assert "runc" not in CONTENTS.packages


def test_a_half_made_tree_is_not_seen(cache, tmp_path):
    ensure_tree(cache, ignore)
    seen = [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("--")]
    assert seen == []


def test_the_mirror_may_be_another(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("WARMSTART_DEBIAN_MIRROR", "http://mirror.example/debian")
    ensure_tree(cache, ignore)
    assert all(call.endswith(" http://mirror.example/debian") for call in read_calls(tmp_path))


def test_an_empty_mirror_is_none(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("WARMSTART_DEBIAN_MIRROR", "")
    ensure_tree(cache, ignore)
    assert all(" http" not in call for call in read_calls(tmp_path))


# Which packages


def test_a_release_file_must_be_valid_unless_the_user_says_otherwise(cache, tmp_path, monkeypatch):
    monkeypatch.delenv(EXPIRED)
    ensure_tree(cache, ignore)
    assert not any("Valid-Until" in call for call in read_calls(tmp_path))
    remove_trees(cache)
    (tmp_path / "log").unlink()
    monkeypatch.setenv(EXPIRED, "1")
    ensure_tree(cache, ignore)
    assert all('Acquire::Check-Valid-Until "false"' in call for call in read_calls(tmp_path))


def test_an_expired_release_file_is_explained(cache, tmp_path, monkeypatch):
    install(
        tmp_path,
        monkeypatch,
        "echo 'E: Release file for http://m/InRelease is expired (invalid since 2d)' >&2; exit 25",
    )
    with pytest.raises(HostError, match="cannot download the packages") as caught:
        ensure_tree(cache, ignore)
    assert f"{EXPIRED}=1" in caught.value.hint


def test_what_was_taken_is_recorded_and_compared(cache, tmp_path, monkeypatch):
    warned: list[str] = []
    tree = ensure_tree(cache, ignore, warned.append)
    (package,) = read_record(tree).packages
    assert (package.name, package.version) == ("base-files", "1:1")
    assert read_record(tree).programs == {"crio": "v1.36.3", "runc": "v1.5.3", SHIM: ""}
    assert "no versions were tested together" in warned[0]
    assert not (tree / ".checksums").exists()
    with pytest.raises(HostError, match="differ from the tested versions") as caught:
        require_tested(cache)
    assert caught.value.details == ("base-files (none) -> 1:1",)
    sections = [f"[{name} {find_architecture()}]\n{package}\n" for name in ("tools", "compiler")]
    lock(tmp_path, monkeypatch, "# tested\n" + "\n".join(sections))
    ensure_tree(cache, ignore, warned.append)
    require_tested(cache)
    assert len(warned) == 1


def test_the_same_version_with_another_hash_is_another_package(cache, tmp_path, monkeypatch):
    lock(tmp_path, monkeypatch, f"[tools {find_architecture()}]\nbase-files 1:1 0000\n")
    warned: list[str] = []
    tree = ensure_tree(cache, ignore, warned.append)
    assert [line.partition(":")[0] for line in warned] == [
        "1 Debian packages of the tools differ from the tested versions"
    ]
    assert read_record(tree).differences == ("base-files 1:1: its file differs from the tested one",)


def test_an_update_makes_a_newer_tree_and_leaves_the_old_one(cache, monkeypatch):
    old = ensure_tree(cache, ignore)
    FakeNode.scripts.clear()
    new = update_tree(cache, ignore)
    assert FakeNode.scripts == [], "the compilers are the same"
    assert new != old
    assert old.is_dir()
    monkeypatch.setenv("FAKE_RELEASE", "2")
    assert tree_path(cache) == new == ensure_tree(cache, ignore)


def test_an_update_compiles_again_with_other_compilers(cache, monkeypatch):
    ensure_tree(cache, ignore)
    FakeNode.scripts.clear()
    monkeypatch.setenv("FAKE_RELEASE", "2")
    tree = update_tree(cache, ignore)
    assert len(FakeNode.scripts) == 3
    assert [package.version for package in read_record(tree).packages] == ["1:2"]
    assert all(record.packages[0].version == "1:2" for _, record in read_records(cache))


# Whether it may be run


@needs_root
def test_a_cache_of_somebody_else_is_refused(cache, monkeypatch):
    ensure_tree(cache, ignore)
    os.chown(cache / "trees", 12345, -1)
    with pytest.raises(HostError, match=rf"{cache}/trees: it belongs to user 12345") as caught:
        ensure_tree(cache, ignore)
    assert caught.value.hint.endswith(f"chown -R root:root {cache}/trees")
    with pytest.raises(HostError, match="belongs to user 12345"):
        verify_tree(cache)


@pytest.mark.parametrize("where", [".", "trees", "programs"])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_cache_that_others_can_write_to_is_refused(cache, where, mode):
    ensure_tree(cache, ignore)
    (cache / where).chmod(mode)
    if where == "programs":
        with pytest.raises(HostError, match=r"lets others write"):
            update_tree(cache, ignore)
        return
    with pytest.raises(HostError, match=rf"its mode {mode:04o} lets others write") as caught:
        ensure_tree(cache, ignore)
    assert "chmod go-w" in caught.value.hint


def test_nothing_is_made_in_a_cache_that_others_can_write_to(cache, tmp_path):
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(HostError, match="lets others write"):
        ensure_tree(cache, ignore)
    assert list(cache.iterdir()) == []


@needs_root
def test_what_is_made_is_ours_alone_whatever_the_umask(cache):
    before = os.umask(0)
    try:
        ensure_tree(cache, ignore)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (cache, cache / "trees", cache / "programs")] == [0o755] * 3
    made = [path for name in ("trees", "programs") for path in (cache / name).rglob("*") if not path.is_symlink()]
    assert [path for path in made if path.stat().st_mode & 0o022] == []


def test_a_link_to_a_cache_is_followed_once(cache, tmp_path):
    cache.mkdir()
    (tmp_path / "link").symlink_to(cache)
    assert ensure_tree(tmp_path / "link", ignore) == tree_path(cache)
    tree = tree_path(cache)
    tree.rename(tree.with_name("elsewhere"))
    tree.symlink_to("elsewhere")
    with pytest.raises(HostError, match="it is not a directory"):
        ensure_tree(cache, ignore)


def replace_file(path: Path) -> None:
    path.unlink()
    path.write_text("compiled evil")
    path.chmod(0o755)


def replace_bytes(path: Path) -> None:
    """Keep the number, the size and, as far as a program can, the times."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (replace_file, "content"),
        (replace_bytes, "content"),
        (lambda path: os.truncate(path, 3), "size"),
        (lambda path: path.chmod(0o4755), "mode"),
        (lambda path: path.chmod(0o777), "mode"),
        pytest.param(lambda path: os.chown(path, 12345, 12345), "owner", marks=needs_root),
        (Path.unlink, "No such file"),
    ],
)
@pytest.mark.parametrize("name", ["usr/sbin/runc", "usr/local/bin/crio"])
def test_a_program_that_was_changed_is_not_run(cache, change, why, name):
    tree = ensure_tree(cache, ignore)
    change(tree / name)
    with pytest.raises(HostError, match="files have changed since they were made") as caught:
        ensure_tree(cache, ignore)
    assert any(name in line and why in line for line in caught.value.details)
    assert "node remove" in caught.value.hint
    assert any(name in line and why in line for line in verify_tree(cache))


def test_without_its_manifest_a_tree_is_not_used(cache):
    tree = ensure_tree(cache, ignore)
    (tree / MANIFEST).unlink()
    (tree / ".stamps").unlink()
    with pytest.raises(HostError, match="files have changed since they were made") as caught:
        ensure_tree(cache, ignore)
    assert caught.value.details == ("the manifest is missing",)


def test_a_cache_that_was_unpacked_elsewhere_is_used(cache, tmp_path):
    ensure_tree(cache, ignore)
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy, symlinks=True)
    tree = ensure_tree(copy, ignore)
    replace_bytes(tree / "usr/sbin/runc")
    with pytest.raises(HostError, match="files have changed since they were made"):
        ensure_tree(copy, ignore)


def test_all_files_are_verified(cache):
    tree = ensure_tree(cache, ignore)
    assert verify_tree(cache) == []
    (tree / tree_module.PAUSE_LAYOUT[1:] / "oci-layout").write_text("data is not looked at by each command")
    (tree / "etc").mkdir()
    ensure_tree(cache, ignore)
    damage = verify_tree(cache)
    assert any("oci-layout: its content" in line for line in damage)
    assert any("etc: added since it was made" in line for line in damage)


def test_a_program_of_the_cache_that_was_changed_is_not_installed(cache):
    ensure_tree(cache, ignore)
    shutil.rmtree(cache / "trees")
    (program,) = cache.glob("programs/runc-*/runc")
    replace_bytes(program)
    with pytest.raises(HostError, match="files have changed since they were made"):
        ensure_tree(cache, ignore)


# What can go wrong


def test_it_takes_root(cache, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="needs root"):
        ensure_tree(cache, ignore)


def test_it_takes_mmdebstrap(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(HostError, match="mmdebstrap is not installed") as caught:
        ensure_tree(cache, ignore)
    assert "apt-get install mmdebstrap" in caught.value.hint
    assert not cache.exists()


def test_packages_that_cannot_be_had_are_the_hosts_fault(cache, monkeypatch, tmp_path):
    install(tmp_path, monkeypatch, "echo 'E: apt-get update failed: could not resolve' >&2; exit 25")
    brief = r"^cannot download the packages of Debian forky: mmdebstrap failed with exit status 25$"
    with pytest.raises(HostError, match=brief) as caught:
        ensure_tree(cache, ignore)
    assert caught.value.details[-1] == "E: apt-get update failed: could not resolve"
    assert "WARMSTART_DEBIAN_MIRROR" in caught.value.hint
    assert list_all(cache) == []
    assert list(tmp_path.glob("warmstart-*")) == []


def test_packages_that_take_too_long_are_the_hosts_fault(cache, monkeypatch, tmp_path):
    install(tmp_path, monkeypatch, "exec sleep 1000")
    monkeypatch.setattr(making, "BOOTSTRAP_S", 0.2)
    with pytest.raises(HostError, match=r"mmdebstrap was stopped after 0\.2 s$"):
        ensure_tree(cache, ignore)
    assert list_all(cache) == []


@pytest.mark.parametrize(
    ("script", "brief"),
    [
        ("go build", r"^cannot compile crio v1\.36\.3: the compiler failed with exit status 1$"),
        (tree_module.PAUSE_SCRIPT, r"^cannot make the pause image: buildah failed with exit status 1$"),
    ],
)
def test_programs_that_cannot_be_made_are_the_hosts_fault(cache, monkeypatch, tmp_path, script, brief):
    make = FakeNode.run

    def fail(self: FakeNode, command: Sequence[str], **options: object) -> None:
        if script in command[-1]:
            raise ProgramError(["nsenter"], "failed with exit status 1", returncode=1, stderr="dial tcp: no route")
        make(self, command, **options)

    monkeypatch.setattr(FakeNode, "run", fail)
    with pytest.raises(HostError, match=brief) as caught:
        ensure_tree(cache, ignore)
    assert caught.value.details == ("dial tcp: no route",)
    assert not tree_path(cache).exists()
    assert list(cache.glob("*/.*.partial")) == []


def test_a_cache_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        ensure_tree(tmp_path / "file" / "cache", ignore)


def test_an_interrupted_making_leaves_nothing(cache, tmp_path):
    def interrupt(line: str) -> None:
        if "packages" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_tree(cache, interrupt)
    # The programs were made before, and are whole.
    assert {name.split("/")[0] for name in list_all(cache)} == {"programs"}


@needs_root
def test_what_a_killed_maker_left_is_removed(cache, tmp_path):
    """The lock of a killed command is free, and what it was making is not to be used."""
    script = """
import os, sys, time
from pathlib import Path
from warmstart.node.cache import create_directory, lock_cache
from warmstart.node.tree import tree_path
cache = Path(sys.argv[1])
with lock_cache(cache, print), create_directory(tree_path(cache)) as new:
    (new / "half").touch()
    print("made", flush=True)
    time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", script, cache], stdout=subprocess.PIPE) as maker:
        assert maker.stdout.readline() == b"made\n"
        maker.kill()
    assert maker.returncode == -signal.SIGKILL
    assert len(list(cache.glob("trees/.*.partial"))) == 1
    tree = ensure_tree(cache, ignore)
    assert list(cache.glob("*/.*.partial")) == []
    assert not (tree / "half").exists()


BOOTSTRAP = """
import sys
from pathlib import Path
from warmstart.node.cache import bootstrap, create_directory, lock_cache
cache = Path(sys.argv[1])
with lock_cache(cache, print), create_directory(cache / "trees/new") as new:
    bootstrap(new, "forky", ["a"], lambda line: print(line, flush=True))
"""
MOUNT_AND_WAIT = """
exec 9>{0}/lock && flock 9
mkdir -p "$target/dev/shm" && mount --bind {0}/outside "$target/dev/shm" && echo "I: mounted"
sleep 1000
"""


@needs_root
def test_the_mounts_of_a_killed_maker_end_with_it(tmp_path, monkeypatch):
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    install(tmp_path, monkeypatch, MOUNT_AND_WAIT.format(tmp_path))
    with subprocess.Popen([sys.executable, "-c", BOOTSTRAP, cache], stdout=subprocess.PIPE) as maker:
        while maker.stdout.readline() != b"tools: mounted\n":
            assert maker.poll() is None
        maker.kill()
    with (tmp_path / "lock").open() as lock_file:
        wait_for_lock(lock_file.fileno())
    assert str(cache) not in Path("/proc/self/mountinfo").read_text()
    assert len(list(cache.glob("trees/.*.partial"))) == 1
    with lock_cache(cache, ignore):
        assert list(cache.glob("trees/.*")) == []
    assert (outside / "file").exists()


def wait_for_lock(descriptor: int) -> None:
    """Wait until no program of a maker is left: they all have the file open."""
    for _ in range(1200):
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    raise AssertionError("a program is still running")


def test_two_makers_at_once_make_one(cache, tmp_path, monkeypatch):
    gate, told = tmp_path / "gate", []
    install(tmp_path, monkeypatch, f"while [ ! -e {gate} ]; do sleep 0.02; done")
    makers = [threading.Thread(target=ensure_tree, args=(cache, told.append)) for _ in range(2)]
    for maker in makers:
        maker.start()
    while "tools: waiting for another command to make them" not in told:
        time.sleep(0.02)
    gate.touch()
    for maker in makers:
        maker.join()
    assert len(read_calls(tmp_path)) == 2
    assert tree_path(cache).is_dir()


def test_a_maker_does_not_wait_for_those_of_other_directories(cache):
    told: list[str] = []
    with lock_cache(cache, told.append, "trees"):
        made = making.ensure_directory(cache / "programs/other", cache, lambda new: (new / "one").touch(), told.append)
        assert (made / "one").exists()
    assert told == []
    assert sorted(path.name for path in cache.iterdir()) == ["lock", "programs"]


def test_all_is_removed_once_nobody_makes_anything(cache):
    ensure_tree(cache, ignore)
    remover = threading.Thread(target=remove_trees, args=(cache,))
    with lock_cache(cache, ignore, "other"):
        remover.start()
        remover.join(0.2)
        assert tree_path(cache).is_dir()
    remover.join()
    assert not tree_path(cache).exists()


# Its removal


def test_all_that_was_ever_made_is_removed(cache):
    ensure_tree(cache, ignore)
    (cache / "trees" / "0123456789ab").mkdir()
    (cache / "theirs").mkdir()
    remove_trees(cache)
    assert sorted(path.name for path in cache.iterdir()) == ["lock", "theirs"]


def test_there_may_be_nothing_to_remove(cache):
    remove_trees(cache)
    assert not cache.exists()


REMOVE_MOUNTED = """
import subprocess, sys
from pathlib import Path
from warmstart.core.errors import HostError
from warmstart.node.tree import remove_trees
cache, outside = map(Path, sys.argv[1:])
subprocess.run(["mount", "--bind", outside, cache / "trees/0123456789ab/dev/shm"], check=True)
try:
    remove_trees(cache)
except HostError as error:
    print(error.brief, error.hint, sep="\\n")
"""


@needs_root
def test_what_is_mounted_in_a_tree_is_not_removed(cache, tmp_path):
    """In a mount namespace, so that the mount ends with the test."""
    shm = cache / "trees/0123456789ab/dev/shm"
    for directory in (shm, cache / "programs", tmp_path / "outside"):
        directory.mkdir(parents=True)
    (tmp_path / "outside/file").touch()
    command = ["unshare", "--mount", sys.executable, "-c", REMOVE_MOUNTED, cache, tmp_path / "outside"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == [f"cannot remove all of {cache}/trees", f"umount {shm}"]
    assert (tmp_path / "outside/file").exists()
    remove_trees(cache)
    assert [path.name for path in cache.iterdir()] == ["lock"]
