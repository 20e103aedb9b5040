"""Check that programs in the cache may run as root: only root can write to them, and they are unchanged.

Each directory of the cache has a manifest with the SHA-256, mode, owner and size of each file, and the target of each
link. Each start checks the parent directories, and the size, times and inode number of programs and libraries, which
takes a few milliseconds. Files with changed times, as after unpacking the cache from an archive, are read and compared.
`find_damage` reads everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from warmstart.core.errors import HostError
from warmstart.core.partial import write_beside

MANIFEST = ".manifest"
_STAMPS = ".stamps"
_SHOWN = 10

Entry = list[Any]


def check_cache(cache: Path) -> Path:
    """Resolve the links in the path of the cache directory, which need not exist.

    Raises:
        HostError: a user other than root can write to it.
    """
    resolved = cache.resolve()
    if resolved.exists():
        check_directory(resolved)
    return resolved


def check_directory(directory: Path) -> None:
    """Check that only root can add, remove or rename files of a directory.

    Raises:
        HostError: it belongs to another user, others can write to it, or it is not a directory.
    """
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise HostError(f"refusing to run tools from {directory}: it is not a directory", hint=f"rm {directory}")
    if status.st_uid not in _trusted_owners():
        brief = f"refusing to run tools from {directory}: it belongs to user {status.st_uid}, not to root"
        raise HostError(brief, hint=f"if you trust its contents: chown -R root:root {directory}")
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        brief = f"refusing to run tools from {directory}: its mode {mode:04o} lets others write to it"
        raise HostError(brief, hint=f"if you trust its contents: chmod go-w {directory}")


def check_parents(directory: Path, cache: Path) -> None:
    """Check a directory of the cache and its parents up to the cache itself; see `check_directory`."""
    inside = directory.relative_to(cache)
    for parent in (*reversed(inside.parents), inside):
        check_directory(cache / parent)


def seal(directory: Path) -> None:
    """Make the files of a new directory writable for root only, and write its manifest."""
    for path in _list_paths(directory):
        _restrict_writes(directory / path)
    manifest = {path: _describe(directory / path) for path in _list_paths(directory)}
    _write(directory / MANIFEST, manifest)
    _write_stamps(directory, manifest)


def _restrict_writes(path: Path) -> None:
    """Remove the write permission of other users from a file or directory; Debian lets groups write to some."""
    status = path.lstat()
    is_ours = stat.S_ISREG(status.st_mode) or (stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_ISVTX)
    if is_ours and status.st_gid == 0 and status.st_mode & 0o022:
        path.chmod(stat.S_IMODE(status.st_mode) & ~0o022)


def check_quickly(directory: Path, cache: Path) -> None:
    """Check a directory of the cache before programs in it run as root.

    Raises:
        HostError: a user other than root can write to it, or a program or library has changed.
    """
    check_parents(directory, cache)
    try:
        stamps = json.loads((directory / _STAMPS).read_text())
    except (OSError, ValueError):
        stamps = {}
    manifest: dict[str, Entry] | None = None
    changed = [path for path, stamp in stamps.items() if _stamp(directory / path) != stamp]
    if changed or not stamps:
        manifest = _read_manifest(directory)
        suspects = changed if stamps else [path for path, entry in manifest.items() if _is_program(path, entry)]
        damage = [line for path in suspects for line in _compare(directory, path, manifest.get(path))]
        if damage:
            raise _damaged(directory, damage)
        # The contents are intact: the cache was moved or unpacked.
        with contextlib.suppress(OSError):
            _write_stamps(directory, manifest)


def find_damage(directory: Path) -> list[str]:
    """Compare a directory with its manifest, and return one line for each difference.

    Raises:
        HostError: the manifest is missing or damaged.
    """
    manifest = _read_manifest(directory)
    present = set(_list_paths(directory))
    damage = [f"{path}: added since it was made" for path in sorted(present - manifest.keys())]
    for path, entry in manifest.items():
        damage += _compare(directory, path, entry)
    return damage


def _damaged(directory: Path, damage: Iterable[str]) -> HostError:
    lines = list(damage)
    details = lines[:_SHOWN] + ([f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])
    hint = "warmstart node remove && warmstart node setup"
    return HostError(
        f"refusing to run tools from {directory}: their files have changed since they were made",
        details=details,
        hint=hint,
    )


def _trusted_owners() -> set[int]:
    # A user other than root runs nothing as root.
    return {0, os.getuid()}


def _read_manifest(directory: Path) -> dict[str, Entry]:
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
    except FileNotFoundError:
        raise _damaged(directory, ["the manifest is missing"]) from None
    except ValueError:
        raise _damaged(directory, ["the manifest is damaged"]) from None
    assert isinstance(manifest, dict)
    return manifest


def _list_paths(directory: Path) -> Iterator[str]:
    """Yield every path below a directory, except the files of this module."""
    pending = [""]
    while pending:
        parent = pending.pop()
        with os.scandir(directory / parent) as entries:
            for entry in entries:
                path = f"{parent}/{entry.name}" if parent else entry.name
                if path == MANIFEST or path.startswith((_STAMPS, f".{_STAMPS}.")):
                    continue
                yield path
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)


def _describe(file: Path) -> Entry:
    """Return type and mode, owner, group, size, and the hash of the content or the target of a link."""
    status = file.lstat()
    content = ""
    size_bytes = 0
    if stat.S_ISREG(status.st_mode):
        size_bytes = status.st_size
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = str(file.readlink())
    elif not stat.S_ISDIR(status.st_mode):
        content = str(status.st_rdev)
    return [status.st_mode, status.st_uid, status.st_gid, size_bytes, content]


def _compare(directory: Path, path: str, entry: Entry | None) -> list[str]:
    try:
        found = _describe(directory / path)
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    if entry is None or found == entry:
        return [] if entry is not None else [f"{path}: added since it was made"]
    names = ("mode", "owner", "group", "size", "content")
    return [f"{path}: its {name} has changed" for name, old, new in zip(names, entry, found, strict=True) if old != new]


def _is_program(path: str, entry: Entry) -> bool:
    """Tell whether an entry is a program or a library."""
    return stat.S_ISREG(entry[0]) and (bool(entry[0] & 0o111) or ".so" in path.rpartition("/")[2])


def _stamp(file: Path) -> list[int] | None:
    try:
        status = file.lstat()
    except OSError:
        return None
    return [status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _write_stamps(directory: Path, manifest: dict[str, Entry]) -> None:
    stamps = {path: _stamp(directory / path) for path, entry in manifest.items() if _is_program(path, entry)}
    _write(directory / _STAMPS, stamps)


def _write(file: Path, document: object) -> None:
    with write_beside(file) as partial:
        partial.write_text(json.dumps(document, separators=(",", ":")))
        partial.chmod(0o644)
