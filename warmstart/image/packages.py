"""List the Debian packages of an image, from dpkg's database in its layers.

Layers are untrusted: sizes and numbers are bounded, and names and versions must be those of Debian Policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.errors import ArchiveError, ImageError
from warmstart.core.reference import Source, Transport
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import Kind, walk_layer
from warmstart.image.open import open_image

_STATUS = "var/lib/dpkg/status"
# Images without a shell ("distroless") have a file for each package here.
_STATUS_DIRECTORY = "var/lib/dpkg/status.d/"
_RELEASES = ("etc/os-release", "usr/lib/os-release")
_FILE_LIMIT_BYTES = 64 << 20
_MOST_PACKAGES = 20_000
# Debian Policy, sections 5.6.1 and 5.6.12.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}")
_VERSION = re.compile(r"[A-Za-z0-9.+~:-]{1,256}")
_ARCHITECTURE = re.compile(r"[a-z0-9-]{1,64}")
_FIELD = re.compile(r"^(Package|Version|Architecture|Source|Status): *(.*?)\s*$", re.MULTILINE)
_ID = re.compile(r"""^ID=["']?([a-z0-9._-]{1,64})["']?\s*$""", re.MULTILINE)


@dataclass(frozen=True, order=True)
class DebianPackage:
    """An installed package.

    Attributes:
        name: name of the binary package.
        version: its version.
        architecture: its architecture, or `all`.
        source: name of the source package, which may be the same.
        distribution: ID of os-release, such as `debian` or `ubuntu`.
    """

    name: str
    version: str
    architecture: str
    source: str
    distribution: str = "debian"


def read_packages(layout: Path) -> tuple[DebianPackage, ...]:
    """List the packages that are installed in an image; none if it has no database of dpkg.

    Raises:
        ImageError: the image is broken.
    """
    files: dict[str, str] = {}
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for layer in opened.image.manifest.layers:
            with opened.open_layer(layer) as content:
                try:
                    files |= _read_layer(StreamedTar(content, "a layer of the image"))
                except ArchiveError as error:
                    raise ImageError(error.brief) from error
    releases = (_ID.search(files[name]) for name in _RELEASES if name in files)
    distribution = next((found[1] for found in releases if found), "debian")
    return tuple(sorted(set(_list_packages(files, distribution))))


def _read_layer(tar: StreamedTar) -> dict[str, str]:
    found: dict[str, str] = {}
    left_bytes = _FILE_LIMIT_BYTES
    for member in walk_layer(tar):
        name = member.name
        in_directory = name.startswith(_STATUS_DIRECTORY) and not name.endswith(".md5sums")
        if member.kind is Kind.FILE and (in_directory or name in (_STATUS, *_RELEASES)):
            left_bytes -= member.size_bytes
            if left_bytes < 0 or len(found) > _MOST_PACKAGES:
                raise ImageError(f"the database of dpkg in the image exceeds {_FILE_LIMIT_BYTES} bytes")
            found[name] = b"".join(tar.read_content(member)).decode(errors="replace")
    return found


def _list_packages(files: Mapping[str, str], distribution: str) -> Iterator[DebianPackage]:
    for name, text in files.items():
        if name in _RELEASES:
            continue
        for paragraph in text.split("\n\n")[:_MOST_PACKAGES]:
            fields: dict[str, str] = dict(_FIELD.findall(paragraph))
            package, version = fields.get("Package", ""), fields.get("Version", "")
            # The entry of a removed package can remain, for its configuration. Files in the directory have no status.
            if fields.get("Status", "installed").split(" ")[-1] != "installed":
                continue
            if not _NAME.fullmatch(package) or not _VERSION.fullmatch(version):
                continue
            architecture = fields.get("Architecture", "")
            source = fields.get("Source", package).partition(" ")[0]
            yield DebianPackage(
                package,
                version,
                architecture if _ARCHITECTURE.fullmatch(architecture) else "all",
                source if _NAME.fullmatch(source) else package,
                distribution,
            )
