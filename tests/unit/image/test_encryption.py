"""Encrypted layers: recipients' keys, the call of skopeo, and what is said of an image that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import make_layout
from support.signing_keys import write_rsa_pair

from warmstart.core.errors import ImageError, InputError
from warmstart.core.reference import Source, Transport
from warmstart.image.encryption import digest_keys, encrypt_layers, parse_encryption_key
from warmstart.image.layout import read_image, write_index
from warmstart.image.manifest import OCI_MANIFEST, Descriptor
from warmstart.image.open import open_image


@pytest.fixture
def public(tmp_path) -> Path:
    (tmp_path / "keys").mkdir()
    return write_rsa_pair(tmp_path / "keys")


@pytest.fixture
def layout(tmp_path) -> Path:
    return make_layout(tmp_path / "image", *(tar_of(entry(name, b"x")) for name in "abc"), annotations={"a": "b"})


class Skopeo:
    """Stands in for a session: copies the layout, and marks the last layers as encrypted."""

    def __init__(self, workspace: Path, marked: int) -> None:
        self.workspace = workspace
        self.marked = marked
        self.command: list[str] = []
        self.keys: list[str] = []

    def stream(self, command: Sequence[str | Path], **_: object) -> None:
        self.command = list(map(str, command))
        keys = [word for word in self.command if word.startswith("jwe:")]
        self.keys = [Path(word.partition(":")[2]).read_text() for word in keys]
        source, into = (Path(word.removeprefix("oci:")) for word in self.command[-2:])
        manifest = json.loads((source / "blobs" / read_image(source).manifest.digest.replace(":", "/")).read_bytes())
        for layer in manifest["layers"][len(manifest["layers"]) - self.marked :]:
            layer["mediaType"] += "+encrypted"
        into.mkdir()
        (into / "blobs").symlink_to(source / "blobs")
        data = json.dumps(manifest).encode()
        digest = sha256(data).hexdigest()
        (source / "blobs/sha256" / digest).write_bytes(data)
        write_index(into, Descriptor(OCI_MANIFEST, f"sha256:{digest}", len(data)))
        options = self.command[: self.command.index(str(command[-2]))]
        Path(options[options.index("--digestfile") + 1]).write_text(f"sha256:{digest}")


def test_the_last_layers_are_encrypted_for_each_recipient(layout, public, tmp_path):
    skopeo, key = Skopeo(tmp_path, 2), parse_encryption_key(f"jwe:{public}")
    encrypted = encrypt_layers(skopeo, layout, [key, key], 2, tmp_path / "encrypted")
    assert skopeo.keys == [public.read_text()] * 2
    words = " ".join(skopeo.command)
    assert "--encrypt-layer -1 --encrypt-layer -2 " in words
    assert "--encrypt-layer -3" not in words
    assert not list(tmp_path.glob("keys-*"))
    with open_image(Source(Transport.OCI, path=encrypted)) as opened:
        below, *above = opened.image.manifest.layers
        with opened.open_layer(below) as content:
            content.read(1)
        for layer in above:
            with pytest.raises(ImageError, match="is encrypted") as caught, opened.open_layer(layer):
                pass
            assert "--decryption-key" in caught.value.hint


def test_a_layer_that_stays_readable_is_an_error(layout, public, tmp_path):
    with pytest.raises(ImageError, match="still readable"):
        encrypt_layers(Skopeo(tmp_path, 1), layout, [parse_encryption_key(f"jwe:{public}")], 2, tmp_path / "encrypted")


@pytest.mark.parametrize("text", ["key.pem", "jwe:", "pgp:somebody@example.com", "jwe:missing.pem", "pkcs7:text"])
def test_keys_that_cannot_be_used_are_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no key")
    with pytest.raises(InputError, match="--encryption-key"):
        parse_encryption_key(text)


def test_a_private_key_is_refused(public):
    with pytest.raises(InputError, match="private key") as caught:
        parse_encryption_key(f"jwe:{public.parent}/keys/node.pem")
    assert "PRIVATE KEY-----" not in caught.value.brief


def test_other_recipients_are_another_build(public, tmp_path):
    first = parse_encryption_key(f"jwe:{public}")
    (tmp_path / "more").mkdir()
    second = parse_encryption_key(f"jwe:{write_rsa_pair(tmp_path / 'more')}")
    assert digest_keys([]) == ""
    assert digest_keys([first, second]) == digest_keys([second, first]) != digest_keys([first])
