"""skopeo, which copies images between registries, files and stores."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from warmstart.core import process
from warmstart.core.errors import ImageError
from warmstart.image.manifest import Descriptor

COPY_S = 3600.0
# For layouts that warmstart made or accepted under the machine's own policy, since a policy that requires signatures
# would reject a layout in our workspace. This one accepts layouts only.
OWN_LAYOUT_POLICY = {
    "default": [{"type": "reject"}],
    "transports": {"oci": {"": [{"type": "insecureAcceptAnything"}]}},
}
REJECTED = "Source image rejected"


class Place(Protocol):
    """Runner of programs, such as `warmstart.node.session.Session`."""

    @property
    def workspace(self) -> Path:
        """Directory at the same path inside and outside."""
        ...

    def stream(
        self,
        command: Sequence[str | Path],
        *,
        on_line: Callable[[str], object],
        timeout_s: float,
        host_network: bool = False,
    ) -> None:
        """Run a program to its end, and call `on_line` with each output line."""
        ...


@dataclass(frozen=True)
class SkopeoAccess:
    """How to speak to the registry that an image comes from: credentials, and whether without TLS."""

    auth_file: Path | None = None
    plain_http: bool = False


def copy_image(
    place: Place,
    source: str,
    destination: str,
    *,
    access: SkopeoAccess = SkopeoAccess(),
    zstd: bool = False,
    own_layout: bool = False,
    more: Sequence[str] = (),
    on_line: Callable[[str], object] = lambda _: None,
) -> str:
    """Copy an image.

    Args:
        place: where skopeo runs.
        source: image name as in containers-transports(5).
        destination: same format.
        access: registry access of the source.
        zstd: compress uncompressed layers with zstd instead of gzip.
        own_layout: whether the source is our own layout, exempt from the machine's image policy.
        more: further options of `skopeo copy`.
        on_line: callback for each output line.

    Returns:
        The digest of the written manifest.

    Raises:
        ImageError: the copy failed; the message is skopeo's.
    """
    # Several copies may run at the same time.
    with TemporaryDirectory(dir=place.workspace, prefix="skopeo-") as scratch:
        digest_file, policy = Path(scratch) / "digest", Path(scratch) / "policy.json"
        options = ["--digestfile", str(digest_file), *_access_options(access, "src-")]
        if own_layout:
            policy.write_text(json.dumps(OWN_LAYOUT_POLICY))
            options += ["--policy", str(policy)]
        if zstd:
            options += ["--dest-compress-format", "zstd", "--dest-compress-level", "1"]
        command = ["skopeo", "copy", *options, *more, source, destination]
        _get(place, command, source, on_line)
        return digest_file.read_text().strip()


@dataclass(frozen=True)
class FoundImage:
    """An image that a name refers to.

    Attributes:
        digest: of its manifest, or of its index.
        layers: of the image for this machine's platform, the base first; without those of unknown size.
    """

    digest: str
    layers: tuple[Descriptor, ...]


def find_image(place: Place, source: str, *, access: SkopeoAccess = SkopeoAccess()) -> FoundImage:
    """Return the image that a name refers to now; arguments as for `copy_image`.

    Raises:
        ImageError: there is no such image, or access is denied.
    """
    lines: list[str] = []
    template = "{{.Digest}} {{json .LayersData}}"
    command = ["skopeo", "inspect", "--no-tags", "--format", template, *_access_options(access, ""), source]
    _get(place, command, source, lines.append)
    digest, _, layers = lines[-1].partition(" ")
    found = (Descriptor(layer["MIMEType"], layer["Digest"], layer["Size"]) for layer in json.loads(layers) or ())
    return FoundImage(digest, tuple(layer for layer in found if layer.size_bytes >= 0))


def _access_options(access: SkopeoAccess, side: str) -> list[str]:
    options = [] if access.auth_file is None else [f"--{side}authfile", str(access.auth_file)]
    return [*options, f"--{side}tls-verify=false"] if access.plain_http else options


def _get(place: Place, command: Sequence[str], source: str, on_line: Callable[[str], object]) -> None:
    try:
        place.stream(command, on_line=on_line, timeout_s=COPY_S, host_network=True)
    except process.ProgramError as failure:
        message = _last_message(failure.stderr)
        hint = (
            "allow the image in /etc/containers/policy.json: see containers-policy.json(5)"
            if REJECTED in message
            else ""
        )
        raise ImageError(f"cannot copy image {source}: {message}", hint=hint) from failure


def _last_message(output: str) -> str:
    """skopeo ends with a line `time=… level=fatal msg="…"`."""
    line = output.strip().splitlines()[-1] if output.strip() else "no reason given"
    _, found, message = line.partition("msg=")
    return message.strip('"').replace('\\"', '"') if found else line
