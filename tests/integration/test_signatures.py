"""A signed image: cosign verifies it, CRI-O's system-wide policy restores it, and a changed one is refused by all."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cri_api.v1 import api_pb2 as cri
from support.builds import PASSWORD, USER, build, write_recipe
from support.checkpoint_image import edit_annotations
from support.cosign import Cosign, ensure_cosign
from support.signing_keys import COSIGN_KEY, COSIGN_PUB, make_key, write_rsa_pair
from support.signing_keys import PASSWORD as KEY_PASSWORD

from warmstart.build.context import BuildOptions
from warmstart.build.existing import find_existing
from warmstart.build.result import BuildResult
from warmstart.build.verify_source import verify_source
from warmstart.core.age import parse_time
from warmstart.core.errors import EngineError, ImageError, SignatureError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_reference, parse_source
from warmstart.engine.cri import CriEngine
from warmstart.image.encryption import encrypt_layers, parse_encryption_key
from warmstart.image.layout import read_image
from warmstart.image.registry.client import push_layout, read_manifest, tag_manifest
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.signatures.attach import attach_signatures
from warmstart.image.signatures.check import Trust, check_signatures
from warmstart.image.signatures.keys import SigningKey, read_public_key
from warmstart.image.signatures.predicates import PROVENANCE, SBOM, VERIFICATION
from warmstart.image.skopeo import SkopeoAccess, copy_image
from warmstart.inspect.build_info import read_build
from warmstart.inspect.inspection import inspect_target
from warmstart.inspect.trust import trust
from warmstart.node import crio as crio_module
from warmstart.node.crio import CONFIG, PAUSE_IMAGE, POLICY_FILE, Crio, run_crio
from warmstart.node.session import Session
from warmstart.node.tree import PAUSE_LAYOUT
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Restorer

pytestmark = pytest.mark.node

SUBNET = "10.79.0.0/24"


@dataclass(frozen=True)
class Signed:
    """An image that was built and signed.

    Attributes:
        recipe: its recipe.
        built: the result of its build.
        options: the options of its build.
        key: the key that signed it.
        public: the file of the public key.
    """

    recipe: Path
    built: BuildResult
    options: BuildOptions
    key: SigningKey
    public: Path

    @property
    def name(self) -> str:
        return self.built.name

    @property
    def access(self) -> RegistryAccess:
        return self.options.access


@pytest.fixture(scope="module")
def signed(pushed_base, private_registry, cache, tmp_path_factory) -> Signed:
    directory = tmp_path_factory.mktemp("signed")
    name = private_registry.name("tests/signed:1")
    restorers = [str(restorer) for restorer in Restorer]
    recipe = write_recipe(directory / "recipe.yaml", pushed_base, name, restore=restorers)
    document = json.loads(recipe.read_text())
    document["image"]["maxAge"] = "30d"
    recipe.write_text(json.dumps(document))
    key = make_key(directory)
    access = RegistryAccess((private_registry.host,), private_registry.auth_file)
    options = BuildOptions(cache, access=access, signer=key)
    return Signed(recipe, build(recipe, options)[0], options, key, directory / "key.pub")


@pytest.fixture(scope="module")
def pulled(signed, open_node, tmp_path_factory) -> Path:
    """Pull the image into a layout."""
    layout = tmp_path_factory.mktemp("pulled") / "layout"
    with open_node() as session:
        pull(session, signed, f"oci:{session.workspace}/pulled")
        shutil.copytree(session.workspace / "pulled", layout)
    assert read_image(layout).manifest.digest == signed.built.image.manifest.digest
    return layout


@pytest.fixture(scope="module")
def changed(signed, pulled, private_registry, tmp_path_factory) -> str:
    """Push the image with one annotation changed, under another name; return the name."""
    name, layout = private_registry.name("tests/signed:changed"), tmp_path_factory.mktemp("changed") / "layout"
    shutil.copytree(pulled, layout)
    edit_annotations(layout, lambda annotations: annotations.update({"dev.warmstart.kernel": "0"}))
    push_layout(layout, parse_reference(name), access=signed.access)
    return name


def pull(session: Session, signed: Signed, destination: str) -> None:
    auth_file = session.workspace / "auth.json"
    auth_file.write_text(signed.access.auth_file.read_text())
    copy_image(session, f"docker://{signed.name}", destination, access=SkopeoAccess(auth_file, plain_http=True))


@pytest.fixture(scope="module")
def cosign(signed, cache, tmp_path_factory) -> Cosign:
    config = tmp_path_factory.mktemp("docker")
    shutil.copy(signed.access.auth_file, config / "config.json")
    return Cosign(ensure_cosign(cache, print), tmp_path_factory.mktemp("home"), config)


def test_cosign_verifies_the_image_offline(signed, cosign, tmp_path):
    done = cosign.run("verify", signed.name, signed.public)
    assert done.returncode == 0, done.stderr
    for kind in (PROVENANCE, VERIFICATION, SBOM):
        done = cosign.run("verify-attestation", signed.name, signed.public, "--type", kind)
        assert done.returncode == 0, done.stderr
        envelopes = [json.loads(line) for line in done.stdout.splitlines()]
        statements = [json.loads(base64.b64decode(envelope["payload"])) for envelope in envelopes]
        assert {one["predicateType"] for one in statements} == {kind}
    make_key(tmp_path, "other")
    assert cosign.run("verify", signed.name, tmp_path / "other.pub").returncode != 0


def test_cosign_refuses_the_changed_image(signed, changed, cosign):
    assert cosign.run("verify", changed, signed.public).returncode != 0


def test_warmstart_trusts_the_signed_image_alone(signed, changed):
    trusted = Trust((read_public_key(signed.public),))
    inspection = inspect_target(signed.name, access=signed.access, signed=trusted)
    assert [key.source for key in inspection.signatures.signers] == [str(signed.public)]
    assert read_build(signed.name, access=signed.access, signed=trusted).identity

    for refuse in list_readers(signed, trusted):
        with pytest.raises(SignatureError, match="no trusted key or identity signed"):
            refuse(changed)


def list_readers(signed: Signed, trusted: Trust) -> list[Callable[[str], object]]:
    """Return functions that read an image by its name, as `verify` and `deploy` do."""

    def verify(name: str) -> None:
        decide = trust((), signed=trusted, access=signed.access)
        verify_source(
            parse_source(name), signed.options.cache, signed.access, Progress(SilentListener()), decide=decide
        )

    return [verify, lambda name: read_build(name, access=signed.access, signed=trusted)]


def test_an_image_whose_statements_were_removed_is_refused(signed, pulled, private_registry):
    name, trusted = private_registry.name("tests/stripped:1"), Trust((read_public_key(signed.public),))
    digest = push_layout(pulled, parse_reference(name), access=signed.access)
    # Of all that is attached to the image, whoever controls the registry can leave the signature alone.
    attach_signatures(parse_reference(name), digest, signed.key, [], access=signed.access)
    for refuse in list_readers(signed, trusted):
        with pytest.raises(SignatureError, match="is missing"):
            refuse(name)


def test_warmstart_trusts_what_cosign_signed(signed, pushed_base, cosign, tmp_path):
    base, key = parse_reference(pushed_base), tmp_path / "cosign.key"
    key.write_text(COSIGN_KEY)
    key.with_suffix(".pub").write_text(COSIGN_PUB)
    manifest = read_manifest(base, access=signed.access)
    public = read_public_key(key.with_suffix(".pub"))
    cosign.sign(f"{base.name}@{manifest.digest}", key, KEY_PASSWORD)
    assert check_signatures(base, manifest, [public], access=signed.access).signers == (public,)
    # In addition to our own signature, and to statements of the build.
    name, own = parse_reference(signed.name), read_public_key(signed.public)
    manifest = read_manifest(name, access=signed.access)
    cosign.sign(f"{name.name}@{manifest.digest}", key, KEY_PASSWORD)
    assert check_signatures(name, manifest, [own], access=signed.access).signers == (own,)
    checked = check_signatures(name, manifest, [own, public], access=signed.access)
    assert checked.signers == (own, public)
    assert {one.type for one in checked.statements} == {PROVENANCE, SBOM, VERIFICATION}


def test_the_image_says_when_it_expires(signed, private_registry):
    expires = parse_time(private_registry.read(signed.name).annotations["dev.warmstart.expires"])
    # Until then, the image restored itself: its build has verified that.
    assert timedelta(days=29, hours=23) < expires - datetime.now(UTC) < timedelta(days=30)
    assert {restore.restorer for restore in signed.built.restores} == set(Restorer)


def test_only_an_image_of_the_same_key_is_up_to_date(signed, tmp_path):
    recipe = load_recipe(signed.recipe)
    assert find_existing(recipe, signed.options).digest == signed.built.image.manifest.digest
    assert find_existing(recipe, replace(signed.options, signer=make_key(tmp_path))) is None


@contextmanager
def run_crio_with_policy(session: Session, signed: Signed, registry: str) -> Iterator[tuple[Crio, CriEngine]]:
    """Run a CRI-O whose system-wide policy asks for the key's signature on all images of a registry."""
    with run_crio(session, "policy", subnet=SUBNET) as crio:
        copy_image(session, f"oci:{PAUSE_LAYOUT}", f"{crio.store}{PAUSE_IMAGE}")
        home = (crio.state / POLICY_FILE).parent
        key = home / "key.pub"
        shutil.copy(signed.public, key)
        requirement = [{"type": "sigstoreSigned", "keyPath": str(key)}]
        local = {"localhost/warmstart": [{"type": "insecureAcceptAnything"}]}
        policy = {"default": [{"type": "reject"}], "transports": {"docker": {registry: requirement, **local}}}
        (home / "policy.json").write_text(json.dumps(policy))
        (home / "registries.d").mkdir()
        attached = f"docker:\n  {registry}:\n    use-sigstore-attachments: true\n"
        (home / "registries.d/signatures.yaml").write_text(attached)
        (home / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
        scratch = crio.state / "pods"
        with CriEngine(crio.endpoint, proc=session.proc, network=session.network, scratch=scratch) as engine:
            yield crio, engine


@pytest.mark.slow
def test_only_a_node_with_the_key_restores_an_encrypted_image(
    signed, pushed_base, private_registry, open_node, monkeypatch
):
    name, digest = parse_reference(signed.name), signed.built.image.manifest.digest
    container = load_recipe(signed.recipe).container
    added = len(signed.built.image.manifest.layers) - len(private_registry.read(pushed_base).layers)
    with open_node() as session:
        registry, keys = private_registry.host, session.workspace / "keys"
        keys.mkdir()
        none = session.workspace / "none"
        none.mkdir()
        key = parse_encryption_key(f"jwe:{write_rsa_pair(keys)}")
        plain, encrypted = session.workspace / "plain", session.workspace / "encrypted"
        pull(session, signed, f"oci:{plain}")
        encrypt_layers(session, plain, [key], added, encrypted)
        # The requirement of statements is among them.
        assert read_image(encrypted).manifest.annotations == signed.built.image.manifest.annotations
        with pytest.raises(ImageError, match="is encrypted"):
            inspect_target(str(encrypted))
        push_layout(encrypted, name, access=signed.access)
        try:
            with (
                run_crio_with_keys(session, registry, monkeypatch, none) as engine,
                pytest.raises(grpc.RpcError, match="decrypt"),
            ):
                pull_by_crio(engine, signed.name)
            with run_crio_with_keys(session, registry, monkeypatch, keys) as engine:
                pull_by_crio(engine, signed.name)
                with engine.start(container, signed.name, "decrypted") as running:
                    assert running.restored
        finally:
            tag_manifest(name, digest, access=signed.access)


@contextmanager
def run_crio_with_keys(session: Session, registry: str, monkeypatch, keys: Path) -> Iterator[CriEngine]:
    """Run a CRI-O that decrypts images with the keys in a directory."""
    line = 'log_level = "warn"'
    monkeypatch.setattr(crio_module, "CONFIG", CONFIG.replace(line, f'{line}\ndecryption_keys_path = "{keys}"'))
    with run_crio(session, f"crio-{keys.name}", subnet=SUBNET) as crio:
        copy_image(session, f"oci:{PAUSE_LAYOUT}", f"{crio.store}{PAUSE_IMAGE}")
        registries = (crio.state / POLICY_FILE).parent / "registries.conf"
        registries.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
        scratch = crio.state / "pods"
        with CriEngine(crio.endpoint, proc=session.proc, network=session.network, scratch=scratch) as engine:
            yield engine


def pull_by_crio(engine: CriEngine, name: str) -> None:
    auth = cri.AuthConfig(username=USER, password=PASSWORD)
    engine.images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=name), auth=auth), timeout=60)


def test_crio_with_a_policy_restores_the_signed_image_and_refuses_the_other(
    signed, changed, private_registry, open_node
):
    container = load_recipe(signed.recipe).container
    with open_node() as session, run_crio_with_policy(session, signed, private_registry.host) as (crio, engine):
        pull_by_crio(engine, signed.name)
        with engine.start(container, signed.name, "signed") as running:
            assert running.restored
        with pytest.raises(grpc.RpcError, match="signature"):
            pull_by_crio(engine, changed)
        # Also if it got into the node's store in another way.
        with pytest.raises(EngineError), engine.start(container, changed, "changed"):
            pass
    del crio
