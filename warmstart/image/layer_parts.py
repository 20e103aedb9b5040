"""Divide the files of a large layer into several layers, and find out which small layers can be joined to one.

A runtime unpacks a layer when it has fetched all of it, and most runtimes unpack one layer at a time. With one large
layer, first only the network works and then only a processor; with several, both work at once. On the other hand, a
snapshotter that pulls lazily mounts each layer, which takes some 20 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from warmstart.dump.archive.tarball import Kind, Member
from warmstart.image.whiteouts import WHITEOUT


def divide_members(members: Mapping[str, Member], part_bytes: int) -> list[list[str]]:
    """Return the names of the members of each part, lowest part first; a member comes after its directories.

    Each part has the directories of its files. Hard links of a file are in one part. Marks of what is removed from the
    layers below are in the first.

    Args:
        members: members of a layer by name, in their order.
        part_bytes: size of the content of a part, unless one file has more.
    """
    if any(_is_below_link(name, members) for name in members):
        return [list(members)]
    parts: list[dict[str, None]] = [{}]
    size_bytes = 0
    for names in _group(members):
        added_bytes = sum(members[name].size_bytes for name in names)
        if size_bytes and added_bytes and size_bytes + added_bytes > part_bytes:
            parts.append({})
            size_bytes = 0
        size_bytes += added_bytes
        for name in names:
            if members[name].kind is Kind.DIRECTORY and any(name in part for part in parts):
                continue
            part = parts[0] if PurePosixPath(name).name.startswith(WHITEOUT) else parts[-1]
            part.update(dict.fromkeys([*_list_parents(name, members), name]))
    return [list(part) for part in parts]


def can_join(below: Mapping[str, Member], above: Mapping[str, Member]) -> bool:
    """Tell whether two layers have the same files as one: no file of one is removed or replaced by the other."""
    if any(PurePosixPath(name).name.startswith(WHITEOUT) for name in (*below, *above)):
        return False
    shared = [name for name in above if name in below]
    directories = all(below[name].kind is above[name].kind is Kind.DIRECTORY for name in shared)
    joined = {**below, **above}
    return directories and not any(_is_below_link(name, joined) for name in joined)


def find_link_target(member: Member) -> str:
    """Return the name of the file that a hard link leads to."""
    return str(PurePosixPath("/", member.link)).strip("/")


def _group(members: Mapping[str, Member]) -> list[list[str]]:
    """Return the names, those of a file together: its own, then its hard links."""
    groups: dict[str, list[str]] = {}
    for name in members:
        groups.setdefault(_find_file(name, members), []).append(name)
    return [sorted(names, key=lambda name: members[name].kind is Kind.HARDLINK) for names in groups.values()]


def _find_file(name: str, members: Mapping[str, Member]) -> str:
    seen = {name}
    while name in members and members[name].kind is Kind.HARDLINK:
        name = find_link_target(members[name])
        if name in seen:
            break
        seen.add(name)
    return name


def _list_parents(name: str, members: Mapping[str, Member]) -> Iterator[str]:
    """Yield the directories of a member that are members themselves, outermost first."""
    for parent in reversed(PurePosixPath(name).parents):
        path = "" if str(parent) == "." else str(parent)
        if path in members:
            yield path


def _is_below_link(name: str, members: Mapping[str, Member]) -> bool:
    return any(members[parent].kind is not Kind.DIRECTORY for parent in _list_parents(name, members))
