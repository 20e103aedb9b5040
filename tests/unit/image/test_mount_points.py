"""Which links in an image a restore must not follow on the way to a mount."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoint_archive import Entry, entry, tar_of

from warmstart.core.errors import ImageError
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import walk_layer
from warmstart.image import mount_points
from warmstart.image.mount_points import Links, check_image


def link(name: str, to: str) -> Entry:
    return entry(name, type=tarfile.SYMTYPE, linkname=to)


def hard(name: str, to: str) -> Entry:
    return entry(name, type=tarfile.LNKTYPE, linkname=to)


def links_of(*layers: list[Entry]) -> Links:
    links = Links()
    for layer in layers:
        links.add_layer(walk_layer(StreamedTar(io.BytesIO(tar_of(*layer)), "layer")))
    return links


DEBIAN = [link("var/run", "/run"), link("var/lock", "/run/lock"), link("lib", "usr/lib"), link("bin", "usr/bin")]
ALPINE = [link("var/run", "../run"), link("etc/mtab", "../proc/mounts")]


@pytest.mark.parametrize("base", [DEBIAN, ALPINE, [], [link("run/shm", "/dev/shm")]])
def test_ordinary_images_are_left_alone(base: list[Entry]) -> None:
    check_image(links_of(base, [entry("app", b"x")]), "an image")


REFUSED = {
    "a name that ends the key": ([link("etc", "/x]:/host")], "'/etc/hostname' leads through '/etc -> /x]:/host'"),
    "such a name in a second link": ([link("etc", "/a"), link("a", "b]:")], "leads through '/a -> b]:'"),
    "a line feed": ([link("dev", "d\ne")], "leads through '/dev -> d\\ne'"),
    "the root": ([link("run/secrets", "/")], "'/run/secrets' leads through a link to the root"),
    "the root by its parents": ([link("run", "usr/..")], None),
    "above the root": ([link("run", "../../run2")], "leads through a link above the root"),
    "itself": ([link("run", "run")], "leads through more than 40 links"),
    "a circle": ([link("run", "a"), link("a", "/run")], "leads through more than 40 links"),
    "a destination": ([link("etc/hosts", "/tmp/hosts")], "'/etc/hosts' is a link: /etc/hosts -> /tmp/hosts"),
    "our directory": ([link(".warmstart", "/data")], "'/.warmstart' is a link"),
    "a link to a link by a hard link": ([link("a", "/x]:/"), hard("etc", "a")], "leads through '/etc -> /x]:/'"),
    "unpacked through a link": ([link("a", "etc"), link("a/hosts", "/b")], "'/etc/hosts' is a link"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_links_that_a_restore_must_not_follow(what: str) -> None:
    members, reason = REFUSED[what]
    if reason is None:
        check_image(links_of(members), "an image")
        return
    with pytest.raises(ImageError) as refusal:
        check_image(links_of(members), "an image")
    assert "an image: the mount destination " in refusal.value.brief
    assert reason in refusal.value.brief


@pytest.mark.parametrize(
    ("above", "is_link"),
    [
        ([entry("etc/hosts", b"")], False),
        ([entry("etc/.wh.hosts")], False),
        ([entry("etc/.wh..wh..opq")], False),
        ([entry(".wh.etc")], False),
        ([entry(".wh..wh..opq")], False),
        ([entry("etc", b"a file")], False),
        ([entry("etc/hosts/")], False),
        ([entry("etc/")], True),
        ([entry("etc/.wh.other")], True),
        ([entry("etc/.wh..wh..opq"), link("etc/hosts", "c")], True),
        ([link("etc/hosts", "c"), entry("etc/.wh..wh..opq")], True),
        ([link("etc", "/elsewhere")], False),
    ],
)
def test_layers_hide_what_lies_below(above: list[Entry], is_link: bool) -> None:
    assert links_of([link("etc/hosts", "/a")], above).is_link("/etc/hosts") is is_link


def test_a_directory_that_is_not_listed_hides_a_link() -> None:
    assert links_of([link("etc", "/x]:/")], [entry("etc/app.conf", b"")]).resolve("/etc/hosts") == ("/etc/hosts", ())


def test_links_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount_points, "_MOST_NODES", 100)
    with pytest.raises(ImageError, match="too many symbolic links"):
        links_of([link(f"a{number}", "b") for number in range(101)])
    with pytest.raises(ImageError, match="too many symbolic links"):
        links_of([link("/".join("a" * 101), "b")])


NAMES = st.sampled_from(["a", "b", "a/b", "b/a", "a/b/c", "b/c"])
TARGETS = st.sampled_from(["a", "b", "/a", "/b/a", "../b", "c/../../a", ".", "missing", "b/"])
MEMBERS = st.one_of(
    st.builds(link, NAMES, TARGETS), st.builds(lambda name: entry(f"{name}/"), NAMES), st.builds(entry, NAMES)
)


@settings(max_examples=100, deadline=None)
@given(members=st.lists(MEMBERS, max_size=6), path=NAMES)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for chroot")
def test_a_path_resolves_as_it_does_in_a_root(tmp_path_factory: pytest.TempPathFactory, members, path) -> None:
    """Unpacked within a root by another program, and looked up there by the kernel."""
    root = tmp_path_factory.mktemp("root")
    try:
        links = links_of(members)
        resolved, _ = links.resolve(f"/{path}")
    except ImageError:
        return
    found = look_up_in(root, members, path)
    assert found in (resolved, "not unpacked")


def look_up_in(root: Path, members: list[Entry], path: str) -> str:
    """What the kernel makes of a path, below `root` with these members; in a process of its own."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        os.close(receiver)
        try:
            os.chroot(root)
            os.chdir("/")
            for info, _ in members:
                unpack(Path("/") / info.name.rstrip("/"), info)
            os.write(sender, os.path.realpath(f"/{path}").encode())
        except OSError:
            os.write(sender, b"not unpacked")
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as answer:
        found = answer.read()
    os.waitpid(child, 0)
    return found


def unpack(path: Path, info: tarfile.TarInfo) -> None:
    """As Untar of containers/storage does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file() or (path.is_dir() and not info.isdir()):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if info.issym():
        path.symlink_to(info.linkname)
    elif info.isdir():
        path.mkdir(exist_ok=True)
    else:
        path.touch()
