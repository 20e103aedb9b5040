"""An image signed without a key, by a private Sigstore: cosign and warmstart trust it for one identity alone."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.builds import build, write_recipe
from support.cosign import Cosign, ensure_cosign
from support.private_sigstore import IDENTITY, PrivateSigstore, make_config, run_sigstore

from warmstart.build.context import BuildOptions
from warmstart.build.existing import find_existing
from warmstart.build.publish import REGISTRY, Signing, publish_image
from warmstart.build.result import BuildResult
from warmstart.core.errors import InputError, SignatureError, SigningError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_reference
from warmstart.image.layout import read_image
from warmstart.image.registry.client import push_layout, read_manifest
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.signatures.attach import attach_signatures
from warmstart.image.signatures.check import Trust, check_signatures
from warmstart.image.signatures.identity import CertificateIdentity
from warmstart.image.signatures.keyless import KeylessSigner
from warmstart.image.signatures.predicates import OWN_TYPES, PROVENANCE, SBOM, VERIFICATION
from warmstart.image.skopeo import SkopeoAccess, copy_image
from warmstart.inspect.inspection import inspect_target
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Restorer

# The programs of the private Sigstore take minutes to compile.
pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(1800)]

NOBODY = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Signed:
    """An image that was built and signed without a key.

    Attributes:
        recipe: its recipe.
        built: the result of its build.
        options: the options of its build.
        sigstore: the services.
    """

    recipe: Path
    built: BuildResult
    options: BuildOptions
    sigstore: PrivateSigstore

    @property
    def name(self) -> str:
        return self.built.name

    @property
    def access(self) -> RegistryAccess:
        return self.options.access

    def identity(self, name: str = IDENTITY, issuer: str = "") -> CertificateIdentity:
        return CertificateIdentity(name, issuer or self.sigstore.issuer, self.sigstore.trusted_root)


@pytest.fixture(scope="module")
def sigstore(cache, tmp_path_factory) -> Iterator[PrivateSigstore]:
    with run_sigstore(cache, tmp_path_factory.mktemp("sigstore"), print) as running:
        yield running


@pytest.fixture(scope="module")
def signed(pushed_base, private_registry, cache, tmp_path_factory, sigstore) -> Iterator[Signed]:
    """Build an image as a job of GitHub Actions does, which gets its token from the issuer."""
    name = private_registry.name("tests/keyless:1")
    restorers = [str(restorer) for restorer in Restorer]
    recipe = write_recipe(tmp_path_factory.mktemp("keyless") / "recipe.yaml", pushed_base, name, restore=restorers)
    access = RegistryAccess((private_registry.host,), private_registry.auth_file)
    signer = KeylessSigner(None, sigstore.signing_config, sigstore.trusted_root)
    options = BuildOptions(cache, access=access, signer=signer)
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in sigstore.ambient().items():
            patch.setenv(variable, value)
        yield Signed(recipe, build(recipe, options)[0], options, sigstore)


@pytest.fixture(scope="module")
def pulled(signed, open_node, tmp_path_factory) -> Path:
    """Pull the image into a layout."""
    layout = tmp_path_factory.mktemp("pulled") / "layout"
    with open_node() as session:
        auth_file = session.workspace / "auth.json"
        auth_file.write_text(signed.access.auth_file.read_text())
        access = SkopeoAccess(auth_file, plain_http=True)
        copy_image(session, f"docker://{signed.name}", f"oci:{session.workspace}/pulled", access=access)
        shutil.copytree(session.workspace / "pulled", layout)
    return layout


@pytest.fixture(scope="module")
def cosign(signed, cache, tmp_path_factory) -> Cosign:
    config = tmp_path_factory.mktemp("docker")
    shutil.copy(signed.access.auth_file, config / "config.json")
    return Cosign(ensure_cosign(cache, print), tmp_path_factory.mktemp("home"), config)


def run_cosign(cosign: Cosign, signed: Signed, command: str, *options: str, identity: str = IDENTITY):
    """Verify with cosign, which reaches no service."""
    wanted = ["--certificate-identity", identity, "--certificate-oidc-issuer", signed.sigstore.issuer]
    root = ["--trusted-root", str(signed.sigstore.trusted_root)]
    return cosign.call(command, *wanted, *root, *options, signed.name)


def test_cosign_verifies_the_image_offline(signed, cosign):
    done = run_cosign(cosign, signed, "verify")
    assert done.returncode == 0, done.stderr
    for kind in (PROVENANCE, VERIFICATION, SBOM):
        done = run_cosign(cosign, signed, "verify-attestation", "--type", kind)
        assert done.returncode == 0, done.stderr
        envelopes = [json.loads(line) for line in done.stdout.splitlines()]
        statements = [json.loads(base64.b64decode(envelope["payload"])) for envelope in envelopes]
        assert {one["predicateType"] for one in statements} == {kind}
    assert run_cosign(cosign, signed, "verify", identity="https://github.com/other").returncode != 0


def test_warmstart_trusts_this_identity_of_this_issuer_alone(signed):
    trusted = Trust((signed.identity(),))
    found = inspect_target(signed.name, access=signed.access, signed=trusted).signatures
    assert found.signers == trusted.signers
    assert {one.type for one in found.statements} == OWN_TYPES
    assert found.others == 0
    for other in (signed.identity("https://github.com/other"), signed.identity(issuer="https://example.com")):
        with pytest.raises(SignatureError, match="no trusted key or identity signed"):
            inspect_target(signed.name, access=signed.access, signed=Trust((other,)))


@pytest.mark.parametrize(("identity", "code"), [(IDENTITY, 0), ("https://github.com/other", 15)])
def test_the_command_refuses_another_identity(signed, identity, code):
    options = {
        "--certificate-identity": identity,
        "--certificate-oidc-issuer": signed.sigstore.issuer,
        "--trusted-root": signed.sigstore.trusted_root,
        "--plain-http": signed.access.plain_http[0],
        "--authfile": signed.access.auth_file,
    }
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "warmstart", "inspect", signed.name, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("signed by" in done.stdout) == (code == 0)


def test_an_image_whose_statements_were_removed_is_refused(signed, pulled, private_registry):
    name = parse_reference(private_registry.name("tests/keyless-stripped:1"))
    digest = push_layout(pulled, name, access=signed.access)
    attach_signatures(name, digest, signed.options.signer, [], access=signed.access)
    with pytest.raises(SignatureError, match="is missing"):
        inspect_target(str(name), access=signed.access, signed=Trust((signed.identity(),)))


def test_only_an_image_of_the_same_identity_is_up_to_date(signed, monkeypatch):
    recipe = load_recipe(signed.recipe)
    assert find_existing(recipe, signed.options).digest == signed.built.image.manifest.digest
    workflow = "team/app/.github/workflows/other.yml@refs/heads/main"
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", signed.sigstore.token(job_workflow_ref=workflow))
    files = signed.sigstore.signing_config, signed.sigstore.trusted_root
    assert find_existing(recipe, replace(signed.options, signer=KeylessSigner(None, *files))) is None


def test_an_expired_token_or_a_fulcio_that_is_not_there_ends_the_build_before_it_begins(
    signed, private_registry, monkeypatch, tmp_path
):
    recipe, before = tmp_path / "recipe.yaml", private_registry.list_images()
    document = json.loads(signed.recipe.read_text())
    document["image"]["name"] = private_registry.name("tests/keyless-refused:1")
    recipe.write_text(json.dumps(document))
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", signed.sigstore.token(age_s=3600))
    files = signed.sigstore.signing_config, signed.sigstore.trusted_root
    with pytest.raises(InputError, match="the identity token is not acceptable: Signature has expired"):
        build(recipe, replace(signed.options, signer=KeylessSigner(None, *files)))
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", signed.sigstore.token())
    (tmp_path / "config.json").write_text(json.dumps(make_config(NOBODY, NOBODY, NOBODY)))
    with pytest.raises(SigningError, match="cannot get a certificate from Fulcio"):
        build(recipe, replace(signed.options, signer=KeylessSigner(None, tmp_path / "config.json", files[1])))
    assert private_registry.list_images() == before


def test_a_token_for_another_service_is_refused_by_fulcio(signed, monkeypatch):
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", signed.sigstore.token(iss="https://example.com"))
    with pytest.raises(SigningError, match=r"400 from .*signingCert: .*identity token"):
        KeylessSigner(None, signed.sigstore.signing_config, signed.sigstore.trusted_root).prepare()


@pytest.mark.parametrize("absent", ["rekorTlogUrls", "tsaUrls"])
def test_without_the_log_or_a_timestamp_no_tag_is_set(signed, pulled, private_registry, tmp_path, absent):
    config = json.loads(signed.sigstore.signing_config.read_text())
    config[absent][0]["url"] = NOBODY
    (tmp_path / "config.json").write_text(json.dumps(config))
    signer = KeylessSigner(None, tmp_path / "config.json", signed.sigstore.trusted_root)
    name, progress = private_registry.name(f"tests/keyless-{absent.lower()}:1"), Progress(SilentListener())
    with pytest.raises(SigningError, match="cannot sign a statement"):
        publish_image(
            pulled,
            read_image(pulled),
            parse_reference(name),
            REGISTRY,
            progress,
            report=b"{}",
            sign=Signing(signer),
            access=signed.access,
        )
    assert not private_registry.has(name)


def test_warmstart_trusts_what_cosign_signed(signed, pushed_base, cosign, tmp_path):
    base, token = parse_reference(pushed_base), tmp_path / "token"
    token.write_text(signed.sigstore.token())
    manifest = read_manifest(base, access=signed.access)
    done = cosign.call(
        *("sign", "--yes", "--identity-token", str(token)),
        *("--signing-config", str(signed.sigstore.signing_config)),
        *("--trusted-root", str(signed.sigstore.trusted_root)),
        f"{base.name}@{manifest.digest}",
    )
    assert done.returncode == 0, done.stderr
    checked = check_signatures(base, manifest, [signed.identity()], access=signed.access)
    assert checked.signers == (signed.identity(),)
