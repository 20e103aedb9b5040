"""The tree of tools: made once, whole or not at all, whoever else makes it; with a fake mmdebstrap and a fake node."""

from __future__ import annotations

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
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import pytest

from warmstart.core.errors import HostError
from warmstart.core.process import ProgramError
from warmstart.node import making
from warmstart.node import tree as tree_module
from warmstart.node.tree import CONTENTS, ensure_tree, remove_trees, tree_key, tree_path

# Writes down how it was called and what was to be seen then; the target comes after the suite.
MMDEBSTRAP = """\
#!/bin/sh
for word; do [ "$last" = forky ] && target=$word; last=$word; done
echo "$*" >> {log}
ls {cache}/trees 2>/dev/null >> {log}
echo "I: running apt-get update..."
echo "not for users"
mkdir -p "$target/usr/local/bin" "$target/usr/local/lib" "$target/usr/local/sbin"
{more}
echo "I: cleaning up..."
"""


class FakeNode:
    """Runs the scripts of the tree: makes what they make."""

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
        for name in ("crio", "pinns", tree_module.SHIM):
            (Path(cwd) / "out" / name).write_text(f"compiled {name}")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WARMSTART_TMPDIR", str(tmp_path))
    monkeypatch.delenv("WARMSTART_DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    @contextmanager
    def fake_enter(root: Path, workspace: Path) -> Iterator[FakeNode]:
        yield FakeNode(root, workspace)

    monkeypatch.setattr(tree_module, "enter", fake_enter)
    install(tmp_path, monkeypatch)
    return tmp_path / "cache"


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> None:
    """Put a fake mmdebstrap on PATH."""
    program = tmp_path / "bin" / "mmdebstrap"
    program.parent.mkdir(exist_ok=True)
    program.write_text(MMDEBSTRAP.format(log=tmp_path / "log", cache=tmp_path / "cache", more=more))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


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
        "program": replace(CONTENTS.program, version="v1.36.4"),
        "layout": CONTENTS.layout + 1,
    }[field]
    assert new != old
    assert tree_key(replace(CONTENTS, **{field: new})) != tree_key()


@pytest.mark.parametrize("name", ["COMPILE_SCRIPT", "CRIU_WRAPPER", "PAUSE_SCRIPT"])
def test_the_key_changes_with_how_it_is_made(monkeypatch, name):
    before = tree_key()
    monkeypatch.setattr(tree_module, name, "other")
    assert tree_key() != before


def test_the_key_changes_with_the_sources(monkeypatch, tmp_path):
    before = tree_key()
    (tmp_path / "other.c").write_text("other")
    monkeypatch.setattr(tree_module, "SHIM_SOURCE", tmp_path / "other.c")
    assert tree_key() != before


def test_the_key_is_the_same_in_another_process():
    script = "from warmstart.node.tree import tree_key; print(tree_key())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tree_key()
    assert len(tree_key()) == 12


# Its making


def test_a_tree_is_made_of_packages_and_programs(cache, tmp_path):
    told: list[str] = []
    tree = ensure_tree(cache, told.append)
    assert tree == tree_path(cache)
    assert (tree / "usr/local/bin/crio").read_text() == "compiled crio"
    assert (tree / "usr/local/bin/pinns").exists()
    assert (tree / "usr/local/lib" / tree_module.SHIM).exists()
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
    shutil.rmtree(cache / "trees")
    ensure_tree(cache, ignore)
    assert len(read_calls(tmp_path)) == 3


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


# What can go wrong


def test_it_takes_root(cache, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="needs root"):
        ensure_tree(cache, ignore)


def test_it_takes_mmdebstrap(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(HostError, match="mmdebstrap is needed") as caught:
        ensure_tree(cache, ignore)
    assert "apt-get install mmdebstrap" in caught.value.hint
    assert not cache.exists()


def test_packages_that_cannot_be_had_are_the_hosts_fault(cache, monkeypatch, tmp_path):
    install(tmp_path, monkeypatch, "echo 'E: apt-get update failed: could not resolve' >&2; exit 25")
    brief = r"^could not get the packages of Debian forky: mmdebstrap failed with exit status 25$"
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
        ("go build", r"^could not compile crio v1\.36\.3: the compiler failed with exit status 1$"),
        (tree_module.PAUSE_SCRIPT, r"^could not make the pause image: buildah failed with exit status 1$"),
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
    assert list(cache.glob("*/.making-*")) == []


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
    assert [name.split("/")[0] for name in list_all(cache)] == ["programs"]


def test_what_a_killed_maker_left_is_removed(cache, tmp_path):
    """The lock of a killed command is free, and what it was making is not to be used."""
    script = """
import os, sys, time
from pathlib import Path
from warmstart.node.making import made_beside, sole_maker
from warmstart.node.tree import tree_path
cache = Path(sys.argv[1])
with sole_maker(cache, print), made_beside(tree_path(cache)) as new:
    (new / "half").touch()
    print("made", flush=True)
    time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", script, cache], stdout=subprocess.PIPE) as maker:
        assert maker.stdout.readline() == b"made\n"
        maker.kill()
    assert maker.returncode == -signal.SIGKILL
    assert len(list(cache.glob("trees/.making-*"))) == 1
    tree = ensure_tree(cache, ignore)
    assert list(cache.glob("*/.making-*")) == []
    assert not (tree / "half").exists()


def test_two_makers_at_once_make_one(cache, tmp_path, monkeypatch):
    gate, told = tmp_path / "gate", []
    install(tmp_path, monkeypatch, f"while [ ! -e {gate} ]; do sleep 0.02; done")
    makers = [threading.Thread(target=ensure_tree, args=(cache, told.append)) for _ in range(2)]
    for maker in makers:
        maker.start()
    while "tools: another command is making them" not in told:
        time.sleep(0.02)
    gate.touch()
    for maker in makers:
        maker.join()
    assert len(read_calls(tmp_path)) == 2
    assert tree_path(cache).is_dir()


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


def test_what_cannot_be_removed_is_an_error(cache, monkeypatch):
    ensure_tree(cache, ignore)

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(PermissionError):
        remove_trees(cache)
