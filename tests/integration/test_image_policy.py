"""The machine's policy for images applies on the embedded node, but not to the node's own images."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.builds import build, write_recipe

from warmstart.build.context import BuildOptions
from warmstart.build.publish import parse_output
from warmstart.core.errors import ImageError
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.skopeo import SkopeoAccess, copy_image

pytestmark = pytest.mark.node

ACCEPT, REJECT = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]


@pytest.fixture
def config(cache, monkeypatch, tmp_path) -> Path:
    """Return the directory of the user's policy, which overrides that of /etc."""
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / ".config/containers"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def recipe(pushed_base, tmp_path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", pushed_base, "localhost/tests/policy:1", {})


@pytest.fixture
def options(cache, private_registry, tmp_path) -> BuildOptions:
    return BuildOptions(
        cache,
        output=parse_output(f"oci-archive:{tmp_path}/image.tar"),
        access=RegistryAccess((private_registry.host,), private_registry.auth_file),
    )


def test_a_base_image_that_is_rejected_is_not_built(recipe, options, config, private_registry):
    (config / "policy.json").write_text(json.dumps({"default": REJECT}))
    with pytest.raises(ImageError, match=r"Source image rejected: .* is rejected by policy") as caught:
        build(recipe, options)
    assert private_registry.host in caught.value.brief
    assert "policy.json" in caught.value.hint
    assert not options.output.path.exists()


def test_where_one_registry_is_accepted_its_images_are_built_and_verified(recipe, options, config, private_registry):
    """The policy covers none of the build's intermediate images: neither by name nor by signature."""
    policy = {"default": REJECT, "transports": {"docker": {private_registry.host: ACCEPT}}}
    (config / "policy.json").write_text(json.dumps(policy))
    build(recipe, options)
    assert options.output.path.exists()


def test_a_registry_that_is_blocked_is_not_asked(config, pushed_base, private_registry, open_node):
    (config / "registries.conf.d").mkdir()
    text = f'[[registry]]\nlocation = "{private_registry.host}"\nblocked = true\n'
    (config / "registries.conf.d/block.conf").write_text(text)
    with open_node() as session, pytest.raises(ImageError, match="blocked"):
        copy_image(
            session, f"docker://{pushed_base}", f"oci:{session.workspace}/layout", access=SkopeoAccess(plain_http=True)
        )


def test_a_registrys_own_certificate_is_trusted(config, start_registry, base_archive, open_node, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=registry -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    host = start_registry(http={"tls": {"key": str(key), "certificate": str(certificate)}})
    with open_node() as session, pytest.raises(ImageError, match="certificate"):
        push(session, base_archive, host)
    (config / f"certs.d/{host}").mkdir(parents=True)
    (config / f"certs.d/{host}/ca.crt").write_bytes(certificate.read_bytes())
    with open_node() as session:
        push(session, base_archive, host)


def push(session, archive: Path, host: str) -> None:
    (session.workspace / "base.tar").write_bytes(archive.read_bytes())
    copy_image(session, f"oci-archive:{session.workspace}/base.tar", f"docker://{host}/tests/base:1")
