"""Refuse images with a mount destination that is, or leads through, a link that a restore must not follow.

CRIU before 4.3.1 keeps mounts as the string `mnt[KEY]:VAL`, and runc and crun gave it as KEY the destination with the
links of the image resolved. A link to a name that holds `]:` cuts the source off, and a restore then mounts a directory
of the host that the image names (CVE-2026-119101 in runc, CVE-2026-115520 in crun, CVE-2026-119614 in CRIU). A node may
have a runtime without the fix, so the names are judged here.

Links are ordinary on the way to a destination: /var/run is a link to /run in most images. Runtimes resolve them within
the root (`SecureJoin` of https://github.com/cyphar/filepath-securejoin), and so does this module. It refuses

- a link on the way that holds `]:` or a control character (a destination that does is refused with its archive);
- a link on the way that climbs above the root, leads to the root itself, or is one of too many;
- a destination that is itself a link;
- a destination that the changed files of the checkpoint move elsewhere;
- any link on the way to the mounts of warmstart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmstart.core.errors import ArchiveError, ImageError
from warmstart.dump.archive.archive import CONFIG_DUMP, Contents
from warmstart.dump.archive.outline import extract_spooled, spool_outline
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import Kind, Member, quoted, walk_layer
from warmstart.image.cache.blobs import BlobCache, ListedMember
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.image.manifest import Descriptor
from warmstart.image.open import OpenedImage
from warmstart.image.selfrestore.pack import DIRECTORY
from warmstart.image.whiteouts import OPAQUE, WHITEOUT

#: The destinations that CRI-O and the kubelet mount in every container, and those of warmstart.
STANDARD_MOUNTS = (
    "/proc",
    "/sys",
    "/sys/fs/cgroup",
    "/dev",
    "/dev/pts",
    "/dev/mqueue",
    "/dev/shm",  # noqa: S108 - a path in the container
    "/dev/termination-log",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/run/.containerenv",
    "/run/secrets",
    "/var/run/secrets/kubernetes.io/serviceaccount",
    f"/{DIRECTORY}",
)

_CONTROL = frozenset(map(chr, (*range(32), 127)))
_HINT = "replace the link in the image with a directory or file"
# As many as Linux follows (MAXSYMLINKS).
_MOST_LINKS = 40
# Images have some ten thousand links. These bound what a hostile one takes of memory and time.
_MOST_NODES = 500_000
_MOST_STEPS = 50_000_000
# Layers of real images have fewer members; longer lists are not kept.
_MOST_KEPT = 200_000

_Path = tuple[str, ...]


@dataclass(slots=True)
class _Node:
    """A path that is a link to `target`, or has links below it."""

    target: str | None = None
    below: dict[str, _Node] = field(default_factory=dict)


class Links:
    """The symbolic links of a root file system, as its layers put them together."""

    def __init__(self) -> None:
        self._root = _Node()
        self._nodes = 0
        self._steps = 0

    def add_layer(self, members: Iterable[Member | ListedMember]) -> None:
        """Put a layer on top, with its whiteouts.

        Raises:
            ImageError: it leads through too many links, or has too many.
        """
        layer = Links()
        layer._nodes, layer._steps = self._nodes, self._steps
        for member in members:
            self._hide(layer.add(member), member.kind)
        _merge(self._root, layer._root)
        self._nodes, self._steps = layer._nodes, layer._steps

    def add(self, member: Member | ListedMember) -> _Path:
        """Apply a member to the root as runtimes do, following links on the way to it.

        Returns:
            Its path. A whiteout is not applied.

        Raises:
            ImageError: as `add_layer`.
        """
        *parents, name = _split(member.name) or [""]
        path = (*self._follow(parents, member.name), name)
        if not name or name.startswith(WHITEOUT):
            return path
        target = member.link if member.kind is Kind.SYMLINK else None
        if member.kind is Kind.HARDLINK:  # to a symbolic link, it is another one
            target = self._find_target(member.link)
        if member.kind is not Kind.DIRECTORY or self.is_link(member.name):
            self._remove(path)
        if target is not None:
            self._insert(path, target)
        return path

    def remove(self, name: str) -> None:
        """Forget the links at and below a path that a runtime removes."""
        *parents, last = _split(name) or [""]
        self._remove((*self._follow(parents, name), last))

    def resolve(self, destination: str) -> tuple[str, tuple[str, ...]]:
        """Resolve a path within the root.

        Returns:
            The path without links, absolute; and the links that were followed, as `PATH -> TARGET`.

        Raises:
            ImageError: a link climbs above the root, or there are too many.
        """
        followed: list[str] = []
        resolved = self._follow(_split(destination), destination, followed)
        return f"/{'/'.join(resolved)}", tuple(followed)

    def is_link(self, destination: str) -> bool:
        """Whether a path is itself a link; links on the way to it are followed."""
        return self._find_target(destination) is not None

    def _find_target(self, name: str) -> str | None:
        *parents, last = _split(name) or [""]
        node = self._find((*self._follow(parents, name), last))
        return node.target if node else None

    def _hide(self, path: _Path, kind: Kind) -> None:
        """Forget the links that a member of an upper layer hides: a directory hides a link, even an unlisted one."""
        *parents, name = path
        node = self._root
        for parent in parents:
            if parent not in node.below:
                return
            node = node.below[parent]
            node.target = None
        if name == OPAQUE:
            node.below.clear()
        elif name.startswith(WHITEOUT):
            node.below.pop(name.removeprefix(WHITEOUT), None)
        elif kind is not Kind.DIRECTORY:
            node.below.pop(name, None)
        elif name in node.below:
            node.below[name].target = None

    def _find(self, path: _Path) -> _Node | None:
        node: _Node | None = self._root
        for name in path:
            node = node.below.get(name) if node else None
        return node

    def _remove(self, path: _Path) -> None:
        node = self._find(path[:-1])
        if node is not None:
            node.below.pop(path[-1], None)

    def _insert(self, path: _Path, target: str) -> None:
        node = self._root
        for name in path:
            if name not in node.below:
                self._nodes += 1
                node.below[name] = _Node()
            node = node.below[name]
        self._nodes += len(target) // 100
        if self._nodes > _MOST_NODES:
            raise ImageError(f"the image has too many symbolic links: more than {_MOST_NODES}")
        node.target = target

    def _follow(self, names: Sequence[str], path: str, followed: list[str] | None = None) -> _Path:
        """Resolve names within the root, link by link."""
        waiting, resolved, hops = list(reversed(names)), list[str](), 0
        nodes: list[_Node | None] = [self._root]
        while waiting:
            name = waiting.pop()
            if name == "..":
                if not resolved:
                    raise ImageError(f"{quoted(path)} leads through a link above the root of the image", hint=_HINT)
                resolved.pop()
                nodes.pop()
                continue
            above = nodes[-1]
            node = above.below.get(name) if above else None
            if node is None or node.target is None:
                resolved.append(name)
                nodes.append(node)
                continue
            hops += 1
            self._steps += len(names) + len(node.target)
            if hops > _MOST_LINKS or self._steps > _MOST_STEPS:
                raise ImageError(f"{quoted(path)} leads through more than {_MOST_LINKS} links", hint=_HINT)
            if followed is not None:
                followed.append(f"/{'/'.join((*resolved, name))} -> {node.target}")
            if node.target.startswith("/"):
                resolved.clear()
                del nodes[1:]
            waiting += reversed(_split(node.target))
        return tuple(resolved)


def check_opened(opened: OpenedImage, scratch: Path, where: str, known: BlobCache | None = None) -> None:
    """Check an image with all its layers and their digests, and the checkpoint that it holds, if any.

    Args:
        opened: the image.
        scratch: an existing, empty directory.
        where: names the image in errors.
        known: as for `add_layer`.

    Raises:
        ImageError: as `check_image` and `check_checkpoint`; or a layer is missing, damaged or broken.
        ArchiveError: the checkpoint is broken, or not to be trusted.
        RegistryError: the registry refused, or could not be reached.
    """
    links, holder = Links(), None
    for layer in opened.image.manifest.layers:
        holds_checkpoint = add_layer(links, opened, layer, known, check=True)
        if holds_checkpoint and CHECKPOINT_NAME in opened.image.manifest.annotations:
            holder = layer
    check_image(links, where)
    if holder is not None:
        label = f"layer {holder.digest}"
        with opened.open_layer(holder) as tar:
            spool_outline(tar, scratch / "layer", label)
        check_checkpoint(links, extract_spooled(scratch / "layer", scratch / "outline", label), where)


def add_layer(
    links: Links, opened: OpenedImage, layer: Descriptor, known: BlobCache | None = None, *, check: bool = False
) -> bool:
    """Add a layer of an image on top.

    Args:
        links: of the layers below.
        opened: the image.
        layer: one of its layers.
        known: lists of layers that were read before; a layer that is among them is not read, others are added.
        check: check a layer that is among them against its digest, too.

    Returns:
        Whether it holds a checkpoint.

    Raises:
        ImageError: the layer is broken, or leads through too many links.
        RegistryError: the registry refused, or could not be reached.
    """
    diff_id = opened.find_diff_id(layer)
    listing = _Listing()
    if known and diff_id and (members := known.read_members(layer, diff_id)) is not None:
        if check:
            opened.check_layer(layer)
        links.add_layer(listing.watch(members))
        return listing.holds_checkpoint
    with opened.open_layer(layer) as tar:
        try:
            links.add_layer(listing.watch(walk_layer(StreamedTar(tar, f"layer {layer.digest}"))))
        except ArchiveError as error:
            raise ImageError(error.brief, hint=error.hint) from error
    if known and diff_id and listing.is_complete:
        known.keep_members(layer, diff_id, listing.members)
    return listing.holds_checkpoint


class _Listing:
    """The members of a layer, as far as they are few enough to be kept, while they pass by."""

    def __init__(self) -> None:
        self.holds_checkpoint = False
        self.is_complete = True
        self.members: list[ListedMember] = []

    def watch(self, members: Iterable[ListedMember | Member]) -> Iterator[ListedMember | Member]:
        for member in members:
            self.holds_checkpoint |= member.name == CONFIG_DUMP
            self.is_complete = len(self.members) < _MOST_KEPT
            if self.is_complete:
                self.members.append(ListedMember(member.name, member.kind, member.link))
            yield member


def check_image(links: Links, where: str) -> None:
    """Check the destinations that are mounted in every container.

    Args:
        links: of the image.
        where: names the image in errors.

    Raises:
        ImageError: one of them is a link, or leads through one that a restore must not follow.
    """
    _check(links, STANDARD_MOUNTS, where)


def check_checkpoint(links: Links, contents: Contents, where: str) -> None:
    """Check the destinations of a checkpoint, with its changed files applied.

    Args:
        links: of the image that its container runs; the changed files are added.
        contents: the checkpoint.
        where: names the image in errors.

    Raises:
        ImageError: as `check_image`; or the changed files lead a destination elsewhere.
    """
    mounts = {mount.destination for mount in contents.spec.mounts}
    bound = {mount.destination for mount in contents.bind_mounts}
    destinations = sorted({*STANDARD_MOUNTS, *mounts, *bound})
    before = _check(links, destinations, where)
    for member in contents.rootfs_diff.members if contents.rootfs_diff else ():
        links.add(member)
    for path in contents.deleted_files:
        links.remove(path)
    after = _check(links, destinations, where)
    for destination in destinations:
        if before[destination] != after[destination]:
            raise ImageError(
                f"{where}: the changed files of the checkpoint lead the mount destination {quoted(destination)}"
                f" from {quoted(before[destination])} to {quoted(after[destination])}"
            )


def _check(links: Links, destinations: Iterable[str], where: str) -> dict[str, str]:
    """Return the destinations with their links resolved."""
    found = {}
    for destination in destinations:
        try:
            resolved, followed = links.resolve(destination)
        except ImageError as error:
            raise ImageError(f"{where}: the mount destination {error.brief}", hint=error.hint) from error
        named = f"{where}: the mount destination {quoted(destination)}"
        for link in (*followed, resolved):
            if "]:" in link or not _CONTROL.isdisjoint(link):
                raise ImageError(f"{named} leads through {quoted(link)}: the name holds ]: or a control character")
        if resolved == "/" and destination != "/":
            raise ImageError(f"{named} leads through a link to the root: {', '.join(followed)}", hint=_HINT)
        if links.is_link(destination) or (followed and destination.startswith(f"/{DIRECTORY}")):
            raise ImageError(f"{named} is a link: {', '.join(followed)}", hint=_HINT)
        found[destination] = resolved
    return found


def _merge(below: _Node, above: _Node) -> None:
    waiting = [(below, above)]
    while waiting:
        lower, upper = waiting.pop()
        for name, node in upper.below.items():
            if name not in lower.below:
                lower.below[name] = node
            else:
                lower.below[name].target = node.target
                waiting.append((lower.below[name], node))


def _split(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]
