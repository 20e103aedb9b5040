"""Malicious and damaged checkpoint archives are refused, with a reason."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checkpoint_archive import (
    CONFIG,
    GOOD,
    ID,
    LOG,
    SPEC,
    Entry,
    crio,
    entry,
    link,
    replaced,
    tar_of,
    text,
    untouched_around,
    with_diff,
    write,
)

from warmstart.core.errors import ArchiveError
from warmstart.dump.archive.archive import extract_archive, read_contents


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with untouched_around(tmp_path) as place:
        yield place


def added(*entries: Entry) -> bytes:
    return tar_of(*crio(), *entries)


def raw(**fields: Any) -> bytes:
    """Return the good archive with another header, with raw fields that TarInfo would not write: name → bytes."""
    header = bytearray(entry("checkpoint/x")[0].tobuf(tarfile.USTAR_FORMAT))
    places = {
        "name": (0, 100),
        "size": (124, 136),
        "type": (156, 157),
        "magic": (257, 265),
        "prefix": (345, 500),
        "tail": (500, 512),
    }
    for field, value in fields.items():
        start, end = places[field]
        header[start:end] = value.ljust(end - start, b"\0")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return tar_of(*crio(), end=bytes(header) + bytes(1024))


def pax(records: bytes) -> bytes:
    """Return the good archive with another member that has this extended header."""
    info = entry("PaxHeaders.0/x", records, type=tarfile.XHDTYPE)
    return tar_of(*crio(), info, entry("checkpoint/x"))


def without(name: str) -> bytes:
    return tar_of(*crio(**{name: None}))


LAST = len(GOOD) - 1024

HOSTILE: dict[str, tuple[bytes, str]] = {
    # Paths
    "absolute name": (added(entry("/etc/cron.d/x", b"x")), "'/etc/cron.d/x' has an absolute name"),
    "parent": (added(entry("../outside/x", b"x")), "'../outside/x' leads out of the archive"),
    "parent within": (
        added(entry("checkpoint/../../outside/x", b"x")),
        "'checkpoint/../../outside/x' leads out of the archive",
    ),
    "parent as directory": (added(entry("../")), "'../' leads out of the archive"),
    "dot within": (added(entry("checkpoint/./x", b"x")), "'checkpoint/./x' is not a plain relative name"),
    "dot twice": (added(entry("././x", b"x")), "'././x' is not a plain relative name"),
    "double slash": (added(entry("checkpoint//x", b"x")), "'checkpoint//x' is not a plain relative name"),
    "file with a trailing slash": (
        added(entry("checkpoint/x/", b"", type=tarfile.REGTYPE)),
        "'checkpoint/x/' is not a plain relative name",
    ),
    "empty name": (raw(name=b""), "has a member with an empty name"),
    "root as a file": (added(entry(".")), "'.' is not a plain relative name"),
    "NUL in a long name": (
        pax(b"23 path=checkpoint/a\0b\n"),
        "has an extended header whose path is empty or holds a NUL byte",
    ),
    "overlong component": (
        added(entry("checkpoint/" + "x" * 256)),
        f"'checkpoint/{'x' * 106}...' is too long a name",
    ),
    "overlong name": (added(entry("d/" * 2500 + "x")), f"'{'d/' * 58}d...' is too long a name"),
    "terminal escape": (added(entry("checkpoint/\x1b[2J")), r"'checkpoint/\x1b[2J' is not a printable name"),
    "not UTF-8": (raw(name=b"checkpoint/\xff"), r"'checkpoint/\udcff' is not a printable name"),
    "directory among the images": (
        added(entry("checkpoint/sub/")),
        "'checkpoint/sub' is a directory; expected a file",
    ),
    "image too deep": (
        added(entry("checkpoint/sub/x", b"x")),
        "'checkpoint/sub/x' is too deep; CRIU's files lie side by side",
    ),
    # Links and special files
    "symlink": (
        added(link("checkpoint/x", "../../outside/secret")),
        "'checkpoint/x' is a symbolic link; a checkpoint archive has only files",
    ),
    "symlink, then written through": (
        tar_of(link("checkpoint", "../outside"), *crio(**{"checkpoint/": None})),
        "'checkpoint/core-1.img' lies beneath 'checkpoint', a symbolic link",
    ),
    "link to a link": (
        added(link("a", "../outside"), link("b", "a"), entry("b/x", b"x")),
        "'b/x' lies beneath 'b', a symbolic link",
    ),
    "symlink replaced by a file": (
        added(link("x", "../outside/secret"), entry("x", b"x")),
        "'x' is there more than once",
    ),
    "hard link to the outside": (
        added(link("x", "../outside/secret", tarfile.LNKTYPE)),
        "'x' is a hard link; a checkpoint archive has only files",
    ),
    "required file as a symlink": (
        replaced("config.dump", link("config.dump", "spec.dump")),
        "'config.dump' is a symbolic link; a checkpoint archive has only files",
    ),
    "device": (
        added(entry("checkpoint/sda", type=tarfile.BLKTYPE, devmajor=8)),
        "'checkpoint/sda' is a block device; a checkpoint archive has only files",
    ),
    "character device": (
        added(entry("mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1)),
        "'mem' is a character device; a checkpoint archive has only files",
    ),
    "FIFO": (
        replaced("dump.log", entry("dump.log", type=tarfile.FIFOTYPE)),
        "'dump.log' is a FIFO; a checkpoint archive has only files",
    ),
    "unheard-of type": (raw(type=b"V"), "'checkpoint/x' is of type b'V', which CRI-O does not write"),
    "GNU long name": (
        added(entry("././@LongLink", b"../../outside/x\0", type=tarfile.GNUTYPE_LONGNAME)),
        "'././@LongLink' is of type b'L', which CRI-O does not write",
    ),
    "global extended header": (
        added(entry("g", b"18 path=/etc/motd\n", type=tarfile.XGLTYPE)),
        "'g' is of type b'g', which CRI-O does not write",
    ),
    "old sparse file": (
        raw(type=tarfile.GNUTYPE_SPARSE),
        "'checkpoint/x' is of type b'S', which CRI-O does not write",
    ),
    "pax sparse file": (
        pax(b"22 GNU.sparse.major=1\n"),
        "holds a sparse file, which CRI-O does not write",
    ),
    # Members that contradict each other
    "duplicate": (added(entry("config.dump", text(CONFIG))), "'config.dump' is there more than once"),
    "duplicate by another name": (
        added(entry("./spec.dump", text(SPEC))),
        "'spec.dump' is there more than once",
    ),
    "file and directory": (added(entry("dump.log/")), "'dump.log' is there more than once"),
    "file and directory by what it holds": (
        added(entry("dump.log/x", b"x")),
        "'dump.log/x' lies beneath 'dump.log', a file",
    ),
    "checkpoint as a file": (
        tar_of(entry("checkpoint", b"x"), *(one for one in crio() if "checkpoint" not in one[0].name)),
        "'checkpoint' is a file; expected a directory",
    ),
    "directory with content": (
        raw(name=b"checkpoint/x/", type=tarfile.DIRTYPE, size=b"00000001000"),
        "'checkpoint/x' is a directory and yet declares 512 bytes of content",
    ),
    "another container's spec": (
        replaced(
            "spec.dump",
            text({**SPEC, "annotations": {"io.kubernetes.cri-o.ContainerID": "beef" * 16}}),
        ),
        f"'config.dump' is of the container {ID}, 'spec.dump' of '{'beef' * 16}'",
    ),
    # Sizes
    "declared beyond the end": (
        raw(size=b"77777777777"),
        "'checkpoint/x' declares 8589934591 bytes but only 1024 are left: it is truncated",
    ),
    "size of 2^87": (
        raw(size=b"\x80" + b"\xff" * 11),
        f"has a damaged header at byte {LAST}: a number of more than 63 bits",
    ),
    "negative size": (
        raw(size=b"\xff" * 11 + b"\x00"),
        f"has a damaged header at byte {LAST}: a negative size",
    ),
    **{
        f"size of {size!r}": (raw(size=size), f"has a header that is not POSIX ustar at byte {LAST}")
        for size in (b"\0\0001000", b"1\0001", b" 1000", b"")
    },
    **{
        f"size of {size!r}": (raw(size=size), f"has a damaged header at byte {LAST}: a field that is not a number")
        for size in (b"+1000", b"1_000", b"0o1000")
    },
    "size not a number": (
        pax(b"11 size=-1\n"),
        "has an extended header whose size is not a number of bytes",
    ),
    "huge extended header": (
        added(entry("x", bytes(1 << 21), type=tarfile.XHDTYPE)),
        "has an extended header of 2097152 bytes; the limit is 1048576",
    ),
    "huge JSON": (
        replaced("config.dump", b" " * ((4 << 20) + 1)),
        "'config.dump' is 4194305 bytes long; the limit is 4194304",
    ),
    # Not a whole tar
    "empty file": (b"", "is empty"),
    "not a tar": (b"#!/bin/sh\nexec true\n" * 100, "is not a tar archive"),
    "text shorter than a header": (b"#!/bin/sh\n", "is not a tar archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(600), "is compressed with gzip; CRI-O writes and reads a plain tar"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), "is compressed with zstd; CRI-O writes and reads a plain tar"),
    "cut within the mark": (GOOD[:-1], f"has a damaged end-of-archive mark at byte {LAST}"),
    "half a mark": (
        GOOD[:LAST] + bytes(512) + b"x" * 512,
        f"has a damaged end-of-archive mark at byte {LAST}",
    ),
    "cut before the mark": (GOOD[:LAST], "ends without an end-of-archive mark: it is truncated"),
    "cut within a file": (
        GOOD[: LAST - 500],
        f"{LOG!r} declares 38 bytes but only 12 are left: it is truncated",
    ),
    "cut within the padding": (GOOD[: LAST - 1], "ends without an end-of-archive mark: it is truncated"),
    "cut within an extended header": (
        tar_of(*crio(), entry("x", b"14 path=../x/\n", type=tarfile.XHDTYPE), end=b"")[:-512],
        "ends within an extended header: it is truncated",
    ),
    "extended header of nothing": (
        added(entry("x", b"11 path=ab\n", type=tarfile.XHDTYPE)),
        "has an extended header with no member after it",
    ),
    "two extended headers": (
        added(*(entry(name, b"11 path=ab\n", type=tarfile.XHDTYPE) for name in "ab"), entry("x")),
        "has an extended header with no member after it",
    ),
    "empty extended name": (
        pax(b"8 path=\n"),
        "has an extended header whose path is empty or holds a NUL byte",
    ),
    "damaged extended header": (
        pax(b"99 path=checkpoint/y\n"),
        f"has a damaged extended header at byte {LAST + 512}: a record that is not LENGTH KEY=VALUE",
    ),
    "contradictory extended header": (
        pax(b"9 path=a\n" * 2),
        f"has a damaged extended header at byte {LAST + 512}: a record that is not LENGTH KEY=VALUE",
    ),
    "damaged header": (
        GOOD[:LAST] + b"x" + GOOD[LAST + 1 :],
        f"has a damaged header at byte {LAST}: a wrong checksum",
    ),
    "old header": (raw(magic=b""), f"has a header that is not POSIX ustar at byte {LAST}"),
    "header of star": (raw(tail=b"\0" * 8 + b"tar"), f"has a header that is not POSIX ustar at byte {LAST}"),
    "GNU header with a prefix": (
        raw(magic=b"ustar  \0", prefix=b"../outside"),
        f"has a header that is not POSIX ustar at byte {LAST}",
    ),
    "old type": (raw(type=b"\0"), f"has a header that is not POSIX ustar at byte {LAST}"),
    # Not a whole checkpoint
    "some other tar": (
        tar_of(entry("hello", b"x")),
        "has no 'config.dump': it is not a checkpoint archive, or not a whole one",
    ),
    "no spec": (
        without("spec.dump"),
        "has no 'spec.dump': it is not a checkpoint archive, or not a whole one",
    ),
    "no inventory": (
        without("checkpoint/inventory.img"),
        "has no 'checkpoint/inventory.img': it is not a checkpoint archive, or not a whole one",
    ),
    "config not JSON": (
        replaced("config.dump", b"{]"),
        "'config.dump' is not JSON, at line 1, column 2: Expecting property name enclosed in double quotes",
    ),
    # What CRI-O would do to the node
    "diff not a tar": (replaced("rootfs-diff.tar", bytes(100)), "'rootfs-diff.tar': is not a tar archive"),
    "diff compressed": (
        replaced("rootfs-diff.tar", b"\x1f\x8b\x08" + bytes(600)),
        "'rootfs-diff.tar': is compressed with gzip; CRI-O writes and reads a plain tar",
    ),
    "diff that reaches beyond itself": (
        replaced("rootfs-diff.tar", tar_of(entry("x", b"x" * 512), end=b"")[:-1]),
        "'rootfs-diff.tar': 'x' declares 512 bytes but only 511 are left: it is truncated",
    ),
    "diff with an absolute name": (
        with_diff(entry("/etc/shadow", b"x")),
        "'rootfs-diff.tar': '/etc/shadow' has an absolute name",
    ),
    "diff with a parent": (
        with_diff(entry("a/../../../etc/shadow", b"x")),
        "'rootfs-diff.tar': 'a/../../../etc/shadow' leads out of the archive",
    ),
    "diff through a link": (
        with_diff(link("var", "/"), entry("var/etc/shadow", b"x")),
        "'rootfs-diff.tar': 'var/etc/shadow' lies beneath 'var', a symbolic link",
    ),
    "diff through a later link": (
        with_diff(entry("var/etc/shadow", b"x"), entry("var-x"), link("var", "/")),
        "'rootfs-diff.tar': 'var/etc/shadow' lies beneath 'var', a symbolic link",
    ),
    "diff linking a file of the node": (
        with_diff(link("x", "../../../etc/shadow", tarfile.LNKTYPE)),
        "'rootfs-diff.tar': 'x' is a hard link to '../../../etc/shadow', which is no file before it",
    ),
    "diff linking through a link": (
        with_diff(link("etc", "/etc"), link("x", "etc/shadow", tarfile.LNKTYPE)),
        "'rootfs-diff.tar': 'x' is a hard link to 'etc/shadow', which is no file before it",
    ),
    "diff linking a link": (
        with_diff(link("etc/shadow", "/etc/shadow"), link("x", "etc/shadow", tarfile.LNKTYPE)),
        "'rootfs-diff.tar': 'x' is a hard link to 'etc/shadow', which is no file before it",
    ),
    "deleting beneath a file": (
        with_diff(entry("var"), deleted=["/var/x"]),
        "'deleted.files': '/var/x' lies beneath 'var', which 'rootfs-diff.tar' makes something else than a directory",
    ),
    "diff with a device": (
        with_diff(entry("sda", type=tarfile.BLKTYPE, devmajor=8)),
        "'rootfs-diff.tar': 'sda' is a block device",
    ),
    "deleting through a link": (
        with_diff(link("var", "/"), deleted=["/var/./etc"]),
        "'deleted.files': '/var/./etc' lies beneath 'var', which 'rootfs-diff.tar' makes"
        " something else than a directory",
    ),
    "deleting outside": (
        with_diff(entry("x"), deleted=["/tmp/x", "/../etc"]),
        "'deleted.files': [1] is '/../etc'; expected an absolute path below / without '..'",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case: str, place: Path) -> None:
    data, message = HOSTILE[case]
    archive = write(place, data)
    with pytest.raises(ArchiveError) as caught:
        extract_archive(archive, place / "new")
    assert caught.value.brief == f"{archive}: {message}"
    with pytest.raises(ArchiveError) as caught_again:
        read_contents(archive)
    assert caught_again.value.brief == caught.value.brief
    assert list(place.iterdir()) == [archive]


def test_hints_say_what_to_do(place: Path) -> None:
    def hint(data: bytes) -> str:
        with pytest.raises(ArchiveError) as caught:
            read_contents(write(place, data))
        return caught.value.hint

    assert hint(b"\x28\xb5\x2f\xfd") == "decompress it first, with zstd -d"
    assert hint(raw(magic=b"")).startswith("pack it again with tar --format=posix")
    assert hint(without("spec.dump")) == ("make one with the kubelet's checkpoint API or CRI's CheckpointContainer")
