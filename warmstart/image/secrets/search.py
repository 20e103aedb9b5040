"""Search the layers of an image, or a checkpoint archive, for secrets.

Each is decompressed and searched in one pass. A value is found if its bytes lie in sequence in one file: in a dump,
they do within a page, and across pages that are adjacent in the same file.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from warmstart.core.errors import ArchiveError, ImageError
from warmstart.core.reference import Source, Transport
from warmstart.core.text import printable
from warmstart.dump.archive.archive import (
    CHECKPOINT_DIRECTORY,
    DEFAULT_LIMITS,
    ROOTFS_DIFF,
    SPEC_DUMP,
    is_of_checkpoint,
)
from warmstart.dump.archive.metadata import parse_spec
from warmstart.dump.archive.tar_stream import Stream, StreamedTar
from warmstart.dump.archive.tarball import Kind, Member, walk_layer
from warmstart.image.compose import CHECKPOINT
from warmstart.image.open import OpenedImage, open_image
from warmstart.image.secrets.locate import Locator
from warmstart.image.secrets.record import FoundSecret
from warmstart.image.secrets.rules import RULES, Rule
from warmstart.image.secrets.scan import KNOWN, Found, Scanner, Search
from warmstart.image.selfrestore.pack import DIRECTORY, MEMORY, MEMORY_OF_RUNTIME, PROGRAMS, TOUCHED_MEMORY
from warmstart.recipe.model import Secret

_CHUNK_BYTES = 1 << 20
_NAMES = "names of files"
_UNNAMED = "a file"
_OWN = {
    MEMORY: "memory",
    MEMORY_OF_RUNTIME: "memory",
    TOUCHED_MEMORY: "memory",
    f"{DIRECTORY}/env": "environment",
    f"{DIRECTORY}/manifest": "command line",
}
_SEED = f"{DIRECTORY}/seed/"
# CRIU keeps the files of a tmpfs in a tar that is compressed.
_TMPFS = re.compile(rf"(?:{re.escape(DIRECTORY)}/)?{CHECKPOINT_DIRECTORY}/tmpfs-(?:dev-)?\d+\.tar\.gz\.img")  # noqa: S108
_TMPFS_LIMIT_BYTES = 16 << 30


@dataclass(frozen=True)
class Finding:
    """A secret that was found, and is the same wherever it was found.

    Attributes:
        kind: the kind of the rule, or KNOWN for a value that was searched for.
        title: the name of the rule, or of the value.
        excerpt: what may be shown of it; empty for a known value.
        count: the number of times that it was found.
        places: the places of it for a user, such as `memory`.
        spots: where the first occurrences are, as precise as is known.
    """

    kind: str
    title: str
    excerpt: str
    count: int
    places: tuple[str, ...]
    spots: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """A text of a document: the document, such as `manifest`, and the text's path, which begins with it."""

    document: str
    path: str
    text: str


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        findings: known values first, then by kind.
        is_complete: whether all is listed.
        environment: the variables of checkpoints for the runtime, as NAME=VALUE.
    """

    findings: tuple[Finding, ...] = ()
    is_complete: bool = True
    environment: tuple[str, ...] = field(default=(), repr=False)

    @property
    def known(self) -> tuple[FoundSecret, ...]:
        """The known values that were found, by name."""
        found = [FoundSecret(one.title, one.places) for one in self.findings if one.kind == KNOWN]
        return tuple(sorted(found, key=lambda one: one.name))


def search_layers(
    layout: Path,
    lowest: int,
    secrets: Collection[Secret],
    rules: Sequence[Rule] = RULES,
    *,
    texts: Iterable[Text] = (),
) -> SearchResult:
    """Search the layers of an image for secrets, except the layer of warmstart's own programs.

    Args:
        layout: the layout that holds it, in a workspace that takes temporary files too.
        lowest: index of the first layer to search; those below are the base image's.
        secrets: known values.
        rules: rules for others.
        texts: texts of the image's documents, to be searched too.

    Raises:
        ImageError: a layer is broken.
    """
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        return search_image(opened, lowest, secrets, rules, texts=texts, workspace=layout.parent)


def search_image(
    opened: OpenedImage,
    lowest: int,
    secrets: Collection[Secret],
    rules: Sequence[Rule] = RULES,
    *,
    texts: Iterable[Text] = (),
    is_foreign: bool = False,
    workspace: Path,
) -> SearchResult:
    """Search the layers of an open image; other arguments and errors as for `search_layers`.

    Args:
        is_foreign: whether somebody else made it, so that its record of who made each layer is not trusted.
        workspace: directory for temporary files.
    """
    makers = opened.image.makers
    with _open_search(secrets, rules, workspace) as contents:
        for index, layer in enumerate(opened.image.manifest.layers):
            if index >= lowest and (is_foreign or makers[index] != PROGRAMS):
                of_runtime = is_foreign or makers[index] == CHECKPOINT
                with opened.open_layer(layer, checked=False) as plain:
                    contents.search_tar(plain, f"layer {layer.digest}", of_runtime=of_runtime)
        contents.search_texts(texts)
        return contents.finish()


def search_archive(
    stream: Stream, label: str, secrets: Collection[Secret], rules: Sequence[Rule] = RULES, *, workspace: Path
) -> SearchResult:
    """Search a checkpoint archive of CRI-O or Podman; temporary files go into `workspace`.

    Raises:
        ImageError: it is broken.
    """
    with _open_search(secrets, rules, workspace) as contents:
        contents.search_tar(stream, label, of_runtime=True)
        return contents.finish()


@contextlib.contextmanager
def _open_search(secrets: Collection[Secret], rules: Sequence[Rule], workspace: Path) -> Iterator[_Contents]:
    with TemporaryDirectory(prefix="search-", dir=workspace) as directory:
        yield _Contents(Search(Scanner(secrets, rules)), Locator(Path(directory)))


class _Contents:
    """The search through the files of tars."""

    def __init__(self, search: Search, locator: Locator) -> None:
        self._search = search
        self._locator = locator
        self._environment: list[str] = []

    def search_tar(self, stream: Stream, label: str, *, of_runtime: bool) -> None:
        """Search a tar; `of_runtime`: whether it is a checkpoint for the runtime."""
        try:
            self._search_tar(stream, label, of_runtime=of_runtime)
        except ArchiveError as error:
            raise ImageError(error.brief, hint=error.hint) from error

    def search_texts(self, texts: Iterable[Text]) -> None:
        """Search texts of documents."""
        for one in texts:
            self._search.enter(one.document, path=one.document if self._search.holds_secret(one.path) else one.path)
            self._search.feed(one.text.encode(errors="surrogatepass"))

    def finish(self) -> SearchResult:
        """Return what was found."""
        self._search.finish()
        known = [one for one in self._search.found.values() if one.kind == KNOWN]
        others = [one for one in self._search.found.values() if one.kind != KNOWN]
        ordered = [*sorted(known, key=lambda one: one.title), *sorted(others, key=lambda one: (one.kind, one.title))]
        findings = tuple(map(self._describe, ordered))
        return SearchResult(findings, self._search.is_complete, tuple(self._environment))

    def _search_tar(self, stream: Stream, label: str, *, of_runtime: bool) -> None:
        headers = _Headers(stream, self._search)
        tar = StreamedTar(headers, label)
        for member in walk_layer(tar):
            if member.kind is Kind.FILE and member.size_bytes:
                with headers.apart():
                    self._search_member(tar, member, of_runtime=of_runtime)

    def _search_member(self, tar: StreamedTar, member: Member, *, of_runtime: bool) -> None:
        if of_runtime and member.name == ROOTFS_DIFF:
            self._search_tar(_Content(tar, member), ROOTFS_DIFF, of_runtime=False)
            return
        is_own = (member.name.startswith(f"{DIRECTORY}/") and not member.name.startswith(_SEED)) or (
            of_runtime and is_of_checkpoint(member.name)
        )
        place = _find_place(member.name, of_runtime=of_runtime)
        # The record is public.
        self._search.enter(_UNNAMED if self._search.holds_secret(place) else place, member.name if is_own else "")
        pieces = tar.read_content(member)
        if of_runtime and member.name == SPEC_DUMP:
            pieces = self._read_environment(pieces, member.size_bytes)
        if is_own:
            pieces = self._locator.keep(member.name, member.size_bytes, pieces)
        for piece in _unpack(pieces) if _TMPFS.fullmatch(member.name) else pieces:
            self._search.feed(piece)

    def _read_environment(self, content: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
        """Yield the configuration of a container, and note its environment if it is understood."""
        if size_bytes > DEFAULT_LIMITS.json_bytes:
            yield from content
            return
        data = b"".join(content)
        yield data
        with contextlib.suppress(ArchiveError):
            self._environment += parse_spec(data, SPEC_DUMP).env

    def _describe(self, found: Found) -> Finding:
        spots = tuple(self._locator.locate(spot) for spot in found.spots)
        return Finding(
            found.kind, found.title, found.excerpt, found.count, tuple(found.places), tuple(dict.fromkeys(spots))
        )


def _unpack(content: Iterable[bytes]) -> Iterator[bytes]:
    """Yield content that is compressed with gzip, as far as it is."""
    decompressor, left = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), _TMPFS_LIMIT_BYTES
    with contextlib.suppress(zlib.error):
        for packed in content:
            while packed and left > 0:
                piece = decompressor.decompress(packed, _CHUNK_BYTES)
                left -= len(piece)
                yield piece
                packed = decompressor.unconsumed_tail


def _find_place(name: str, *, of_runtime: bool) -> str:
    """Name the place that a file of a layer is for a user."""
    if of_runtime and is_of_checkpoint(name):
        return {SPEC_DUMP: "environment"}.get(name, "checkpoint")
    if name in _OWN:
        return _OWN[name]
    if name.startswith(f"{DIRECTORY}/") and not name.startswith(_SEED):
        return "checkpoint"
    return f"file /{printable(name.removeprefix(_SEED))}"


class _Headers:
    """The stream of a tar, in which names and other headers are searched as they are read."""

    def __init__(self, stream: Stream, search: Search) -> None:
        self._stream = stream
        self._search = search
        self._is_apart = False
        search.enter(_NAMES)

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        if not self._is_apart:
            self._search.feed(data)
        return data

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Read the content of a member within a `with` block: it is another content."""
        self._is_apart = True
        yield
        self._is_apart = False
        self._search.enter(_NAMES)


class _Content:
    """The content of a member of a tar, as a stream."""

    def __init__(self, tar: StreamedTar, member: Member) -> None:
        self._tar = tar
        self._at, self._end = member.offset, member.offset + member.size_bytes

    def read(self, size: int, /) -> bytes:
        data = self._tar.read(self._at, min(size, self._end - self._at))
        self._at += len(data)
        return data
