"""The options that say who signs an image, and whose signature is trusted."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from support.signing_keys import make_key

from warmstart.cli.options import key_option, look_key_option, sign_option
from warmstart.core.errors import InputError
from warmstart.image.signatures.check import Trust
from warmstart.image.signatures.identity import CertificateIdentity
from warmstart.image.signatures.keyless import KeylessSigner


def read(option, *words: str):
    """Return the value that a command with the option gets."""
    found: list[object] = []
    click.command()(option(lambda **given: found.extend(given.values()))).main(list(words), standalone_mode=False)
    [value] = found
    return value


def test_an_image_is_signed_with_a_key_with_the_identity_or_not_at_all(tmp_path):
    key = make_key(tmp_path)
    assert read(sign_option) is None
    assert read(sign_option, "--sign", key.source).public == key.public
    assert read(sign_option, "--sign", "keyless") == KeylessSigner()
    files = [Path("token"), Path("config"), Path("root")]
    options = ["--identity-token", "token", "--signing-config", "config", "--trusted-root", "root"]
    assert read(sign_option, "--sign", "keyless", *options) == KeylessSigner(*files)


def test_a_key_may_be_called_keyless(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(make_key(tmp_path).source).rename("keyless")
    assert read(sign_option, "--sign", "./keyless").public.der


def test_keys_and_an_identity_can_be_trusted(tmp_path):
    key = make_key(tmp_path)
    wanted = ["--certificate-identity", "a", "--certificate-oidc-issuer", "b", "--trusted-root", "root"]
    identity = CertificateIdentity("a", "b", Path("root"))
    assert read(key_option) == Trust()
    assert read(key_option, *wanted) == Trust((identity,))
    assert read(key_option, *wanted, "--key", str(tmp_path / "key.pub")) == Trust((key.public, identity))
    with pytest.raises(InputError, match="belong together"):
        read(key_option, *wanted[:2])


def test_an_identity_can_be_the_rule_for_a_machine(monkeypatch):
    monkeypatch.setenv("WARMSTART_CERTIFICATE_IDENTITY_REGEXP", "^a$")
    monkeypatch.setenv("WARMSTART_CERTIFICATE_OIDC_ISSUER", "b")
    monkeypatch.setenv("WARMSTART_TRUSTED_ROOT", "root")
    [identity] = read(key_option).signers
    assert identity.source == "/^a$/ of b"
    assert identity.trusted_root == Path("root")
    assert read(look_key_option) == Trust()
