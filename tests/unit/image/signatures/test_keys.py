"""Keys: cosign's own files, PEM, and everything that is no key."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.signing_keys import COSIGN_KEY, COSIGN_PUB, PASSWORD, write_pair

from warmstart.core.errors import InputError
from warmstart.image.signatures.keys import read_public_key, read_signing_key


@pytest.fixture
def cosign_key(tmp_path) -> Path:
    path = tmp_path / "cosign.key"
    path.write_text(COSIGN_KEY)
    path.with_suffix(".pub").write_text(COSIGN_PUB)
    return path


def test_the_key_of_cosign_is_opened_with_its_password(cosign_key, monkeypatch):
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    key = read_signing_key(cosign_key)
    assert key.public == read_public_key(cosign_key.with_suffix(".pub"))
    assert PASSWORD not in repr(key)
    assert len(repr(key)) < 200


@pytest.mark.parametrize(("given", "said"), [(None, "is encrypted"), ("other", "password in COSIGN_PASSWORD is wrong")])
def test_without_the_password_it_is_said_which_variable_has_it(cosign_key, monkeypatch, given, said):
    monkeypatch.delenv("COSIGN_PASSWORD", raising=False)
    if given:
        monkeypatch.setenv("COSIGN_PASSWORD", given)
    with pytest.raises(InputError) as caught:
        read_signing_key(cosign_key)
    assert said in caught.value.brief
    assert "COSIGN_PASSWORD" in caught.value.brief + caught.value.hint


@pytest.mark.parametrize("curve", [ec.SECP256R1(), None], ids=["P-256", "Ed25519"])
@pytest.mark.parametrize("password", ["", PASSWORD], ids=["plain", "encrypted"])
def test_a_signature_is_of_one_key_and_one_text(tmp_path, monkeypatch, curve, password):
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    path = write_pair(tmp_path, curve=curve, password=password)
    # Builds in other processes get the key pickled.
    key = pickle.loads(pickle.dumps(read_signing_key(path)))
    public, other = read_public_key(path.with_suffix(".pub")), write_pair(tmp_path, "other", curve=curve)
    signature = key.sign(b"text")
    assert public.verifies(signature, b"text")
    assert not public.verifies(signature, b"another text")
    assert not public.verifies(b"", b"text")
    assert not read_public_key(other.with_suffix(".pub")).verifies(signature, b"text")


def test_keys_of_other_kinds_are_refused(tmp_path):
    path = write_pair(tmp_path, curve=ec.SECP384R1())
    for read, file in ((read_signing_key, path), (read_public_key, path.with_suffix(".pub"))):
        with pytest.raises(InputError) as caught:
            read(file)
        assert "P-256" in caught.value.hint


def test_a_private_key_is_not_taken_for_a_public_one(cosign_key):
    with pytest.raises(InputError, match="is a private key"):
        read_public_key(cosign_key)


@pytest.mark.parametrize(
    "text", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "x" * 70000]
)
def test_files_that_are_no_keys_are_named(tmp_path, monkeypatch, text):
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    (tmp_path / "file").write_text(text)
    for read in (read_signing_key, read_public_key):
        with pytest.raises(InputError, match="file"):
            read(tmp_path / "file")
        with pytest.raises(InputError, match="No such file"):
            read(tmp_path / "missing")


@pytest.mark.parametrize(
    "change",
    [
        {"kdf": {"name": "scrypt", "params": {"N": 1 << 30, "r": 8, "p": 1}, "salt": ""}},
        {"kdf": {"name": "scrypt", "params": {"N": -1, "r": 8, "p": 1}, "salt": ""}},
        {"kdf": {"name": "argon2"}},
        {"ciphertext": 1},
        {"cipher": None},
    ],
)
def test_a_key_with_other_parameters_is_refused(tmp_path, monkeypatch, change):
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    head, *body, foot = COSIGN_KEY.strip().splitlines()
    document = json.loads(base64.b64decode("".join(body))) | change
    (tmp_path / "key").write_text("\n".join([head, base64.b64encode(json.dumps(document).encode()).decode(), foot]))
    with pytest.raises(InputError, match="is not a key that cosign made"):
        read_signing_key(tmp_path / "key")
