"""Encrypt the layers of an image for recipients, in the format of ocicrypt, which skopeo, CRI-O and containerd share.

https://github.com/containers/ocicrypt: each layer has a key of its own, which is encrypted for each recipient and kept
in the layer's annotations. Anybody without a recipient's private key gets none of the layer's content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

from warmstart.core.errors import ImageError, InputError
from warmstart.image.key_file import read_key_file
from warmstart.image.layout import read_image
from warmstart.image.manifest import ENCRYPTED
from warmstart.image.skopeo import Place, copy_image


class Protocol(StrEnum):
    """The ways to encrypt a layer's key for a recipient."""

    JWE = "jwe"
    PKCS7 = "pkcs7"


@dataclass(frozen=True)
class EncryptionKey:
    """The public key (JWE) or the certificate (PKCS #7) of a recipient.

    Attributes:
        protocol: how the key is used.
        data: content of its file.
        source: the file.
    """

    protocol: Protocol
    data: bytes = field(repr=False)
    source: str = ""


def parse_encryption_key(text: str) -> EncryptionKey:
    """Read the key in PROTOCOL:FILE.

    Raises:
        InputError: the text is something else, or the file cannot be read.
    """
    protocol, _, path = text.partition(":")
    if protocol not in [*Protocol] or not path:
        raise InputError(f"--encryption-key {text}: expected jwe:FILE or pkcs7:FILE")
    data = read_key_file(Path(path), f"--encryption-key {text}")
    if b"PRIVATE KEY-----" in data:
        hint = "give the public key; its private key belongs on the nodes"
        raise InputError(f"--encryption-key {text}: this is a private key", hint=hint)
    if b"-----BEGIN " not in data:
        raise InputError(f"--encryption-key {text}: this is no key in PEM")
    return EncryptionKey(Protocol(protocol), data, path)


def digest_keys(keys: Sequence[EncryptionKey]) -> str:
    """Return a digest of the recipients' keys, in any order; empty if there are none."""
    digests = sorted(f"{key.protocol} {hashlib.sha256(key.data).hexdigest()}" for key in keys)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if digests else ""


def encrypt_layers(place: Place, layout: Path, keys: Sequence[EncryptionKey], count: int, into: Path) -> Path:
    """Write a layout with the image of another one, its last layers encrypted; return it.

    Args:
        place: where skopeo runs.
        layout: layout of the image, in the workspace.
        keys: keys of the recipients; each of them can decrypt.
        count: number of layers, from the top.
        into: the new layout, in the workspace.

    Raises:
        ImageError: skopeo failed; the message is its own.
    """
    # Otherwise, layers of the base image that are not compressed would be, and have another digest.
    options = ["--dest-oci-accept-uncompressed-layers"]
    options += [word for index in range(count) for word in ("--encrypt-layer", str(-1 - index))]
    with TemporaryDirectory(dir=place.workspace, prefix="keys-") as scratch:
        for index, key in enumerate(keys):
            file = Path(scratch) / f"recipient-{index}.pem"
            file.write_bytes(key.data)
            options += ["--encryption-key", f"{key.protocol}:{file}"]
        copy_image(place, f"oci:{layout}", f"oci:{into}", own_layout=True, more=options)
    layers = read_image(into).manifest.layers
    if not all(layer.media_type.endswith(ENCRYPTED) for layer in layers[len(layers) - count :]):
        raise ImageError("cannot encrypt the image: a layer is still readable")
    return into
