"""The end of a build: what is published is what was encrypted, and it is signed with statements about it."""

from __future__ import annotations

import json
import tarfile
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import PROVENANCE, edit_annotations, make_layout
from support.signing_keys import make_key, write_rsa_pair

from warmstart.build import pipeline
from warmstart.build.base import BaseImage
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.result import BuildCandidate, EditedDump
from warmstart.build.secrets import SecretsFound
from warmstart.build.verify import Restore
from warmstart.core.errors import InputError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Source, Transport, parse_source
from warmstart.dump.edit.memory import MappedMemory
from warmstart.image.chunk_format import TOC
from warmstart.image.encryption import parse_encryption_key
from warmstart.image.layout import read_image
from warmstart.image.lazy_layer import LANDMARK, NO_LANDMARK, TOC_DIGEST
from warmstart.image.manifest import Descriptor
from warmstart.image.open import OpenedImage, open_image
from warmstart.image.signatures.predicates import OWN_TYPES
from warmstart.recipe.load import parse_recipe

RECIPE = {
    "apiVersion": "warmstart/v1alpha1",
    "name": "app",
    "container": {"image": "registry.example.com/app:1", "readinessProbe": {"httpGet": {"port": 8080}}},
    "restore": ["runtime"],
    "image": {"name": "registry.example.com/app:1-warm"},
}


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """End a build with some options; return the arguments of what was published, and of the encryption."""
    published: dict[str, object] = {}
    encrypted: list[tuple[object, ...]] = []

    def encrypt(session: object, layout: Path, keys: object, count: int, into: Path) -> Path:
        encrypted.append((session, layout, keys, count))
        make_layout(into, tar_of(entry("app", b"x")), b"encrypted", annotations={})
        edit_annotations(into, lambda annotations: annotations.update({"a": "encrypted"}))
        return into

    verified: list[Path] = []

    def verify(_: object, candidate: BuildCandidate, *__: object) -> tuple[Restore, ...]:
        verified.append(candidate.layout)
        return (Restore("10.89.0.2", 0.1, 0.2),)

    monkeypatch.setattr(pipeline, "verify", verify)
    monkeypatch.setattr(pipeline, "search_secrets", lambda *_: SecretsFound())
    monkeypatch.setattr(pipeline, "encrypt_layers", encrypt)
    monkeypatch.setattr(
        pipeline, "publish_image", lambda *given, **options: published.update(options, layout=given[0], image=given[1])
    )

    def run(lazy: str = "none", **options: object) -> SimpleNamespace:
        layer = tar_of(entry("app", b"x"))
        base = BaseImage(
            parse_source("registry.example.com/app:1"),
            "sha256:" + "ba" * 32,
            make_layout(tmp_path / "base", layer, annotations={}),
            layers=1,
        )
        layout = make_layout(tmp_path / "image", layer, tar_of(entry("checkpoint", b"y")), annotations={})
        warm = SimpleNamespace(cold_s=3.0, hooks=(), warmup=())
        dump = EditedDump(1 << 20, 0, MappedMemory("/.warmstart/memory", 0, ()), Future(), files=("/app",))
        session = SimpleNamespace(workspace=tmp_path)
        image = {**RECIPE["image"], "lazy": lazy}
        recipe = parse_recipe(json.dumps({**RECIPE, "image": image}), "recipe")
        progress = Progress(SilentListener())
        context = BuildContext(recipe, BuildOptions(tmp_path / "cache", **options), progress, session)
        provenance = replace(PROVENANCE, recipe=recipe.document)
        built = pipeline.verify_and_publish(context, BuildCandidate(layout, warm, dump, provenance), base, ())
        assert json.loads(published["report"])["digest"] == built.image.manifest.digest
        assert published["image"] is built.image
        assert read_image(published["layout"]).manifest.digest == built.image.manifest.digest
        return SimpleNamespace(**published, encrypted=encrypted, verified=verified, plain=layout, session=session)

    return run


def test_an_image_is_published_as_it_is_without_keys(publish):
    done = publish()
    assert done.sign is None
    assert done.layout == done.plain
    assert done.encrypted == []


def test_the_encrypted_image_is_the_one_that_is_published_and_signed(publish, tmp_path):
    (tmp_path / "keys").mkdir()
    recipient, key = parse_encryption_key(f"jwe:{write_rsa_pair(tmp_path / 'keys')}"), make_key(tmp_path)
    done = publish(encryption_keys=(recipient,), signer=key)
    assert done.encrypted == [(done.session, done.plain, (recipient,), 1)]
    assert done.layout != done.plain
    assert done.image.manifest.annotations == {"a": "encrypted"}
    assert done.sign.signer is key
    assert {one.type for one in done.sign.predicates} == OWN_TYPES


@pytest.mark.parametrize(("lazy", "end"), [("estargz", [TOC]), ("zstd-chunked", [])])
def test_a_lazy_image_is_the_one_that_is_verified_published_and_signed(publish, tmp_path, lazy, end):
    done = publish(lazy, signer=make_key(tmp_path))
    assert done.verified == [done.layout] != [done.plain]
    plain, converted = read_image(done.plain), done.image
    assert converted.manifest.annotations == plain.manifest.annotations
    assert converted.config.history == plain.config.history
    assert all(TOC_DIGEST in layer.annotations for layer in converted.manifest.layers)
    with open_image(Source(Transport.OCI, path=done.layout)) as opened:
        names = [list_names(opened, layer) for layer in converted.manifest.layers]
    # Its application has /app mapped, and reads nothing else at once.
    assert names == [["app", LANDMARK, *end], [NO_LANDMARK, "checkpoint", *end]]


def list_names(opened: OpenedImage, layer: Descriptor) -> list[str]:
    """Return the names in a layer, which is checked against its digests."""
    with opened.open_layer(layer) as content, tarfile.open(fileobj=content, mode="r|") as tar:
        return tar.getnames()


def test_a_lazy_image_cannot_be_encrypted(tmp_path):
    (tmp_path / "keys").mkdir()
    recipient = parse_encryption_key(f"jwe:{write_rsa_pair(tmp_path / 'keys')}")
    image = {**RECIPE["image"], "lazy": "estargz"}
    recipe = parse_recipe(json.dumps({**RECIPE, "image": image}), "recipe")
    options = BuildOptions(tmp_path / "cache", encryption_keys=(recipient,))
    with pytest.raises(InputError, match=r"image\.lazy: estargz and --encryption-key exclude each other"):
        pipeline.build_image(recipe, options, Progress(SilentListener()))
