"""Whether a target is up to date: only an image that is whole and has the key of the build makes a build needless."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import edit_annotations, make_layout
from support.registry_access import http
from support.signing_keys import make_key

from warmstart.build import existing
from warmstart.build.context import BuildOptions
from warmstart.build.existing import ExistingImage, find_existing
from warmstart.build.key import find_inputs
from warmstart.build.publish import Output
from warmstart.core.errors import PrivilegeError
from warmstart.core.reference import Reference, Transport
from warmstart.image.annotations import BUILD_KEY, EXPIRES, PREFIX
from warmstart.image.layout import read_image, write_archive, write_layout
from warmstart.image.registry.client import push_layout
from warmstart.image.signatures.attach import attach_signatures
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Recipe, SecurityContext

NAME = Reference("registry.example.com", "team/app", "1-warm")


def make_base(path: Path, content: bytes = b"x") -> Path:
    make_layout(path, tar_of(entry("app", content)), annotations={})
    return path


def make_recipe(directory: Path, image: str, name: object = NAME, **more: object) -> Recipe:
    document = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "app",
        "container": {"image": image, "readinessProbe": {"httpGet": {"port": 8080}}},
        "image": {"name": str(name)},
        **more,
    }
    (directory / "recipe.yaml").write_text(json.dumps(document))
    return load_recipe(directory / "recipe.yaml")


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    make_base(tmp_path / "base")
    return make_recipe(tmp_path, "oci:base")


@pytest.fixture(params=[Transport.OCI, Transport.OCI_ARCHIVE])
def options(request, tmp_path) -> BuildOptions:
    return BuildOptions(tmp_path / "cache", Output(request.param, tmp_path / "out"))


def make_image(
    directory: Path, recipe: Recipe, options: BuildOptions, base_digest: str, images: tuple[str, ...] = ()
) -> Path:
    """An image with the key of a build, as a layout."""
    make_layout(directory, tar_of(entry("checkpoint", b"y" * 5000)), annotations={})
    key = replace(find_inputs(recipe, options), images=images).key(base_digest)
    edit_annotations(directory, lambda annotations: annotations.update({PREFIX + BUILD_KEY: key}))
    return directory


@pytest.fixture
def publish(tmp_path) -> Callable[[Recipe, BuildOptions], str]:
    """Put an image with the right key into a layout or an archive, and return its digest.

    The digests of the images of services, in layouts of these names, are part of the key.
    """

    def put(recipe: Recipe, options: BuildOptions, *names: str) -> str:
        base, *images = (read_image(tmp_path / name).manifest.digest for name in ("base", *names))
        layout = make_image(tmp_path / f"made-{uuid4().hex}", recipe, options, base, tuple(images))
        write = write_layout if options.output.kind is Transport.OCI else write_archive
        write(layout, read_image(layout), options.output.path, name=str(recipe.image))
        return read_image(layout).manifest.digest

    return put


def test_an_image_with_the_key_is_found(recipe, options, publish):
    assert find_existing(recipe, options) is None
    digest = publish(recipe, options)
    found = find_existing(recipe, options)
    assert found == ExistingImage(NAME, f"{options.output.kind}:{options.output.path}", digest)
    assert str(found) == f"registry.example.com/team/app@{digest}"


@pytest.mark.parametrize(("expires", "found"), [("2026-01-01T00:00:00Z", False), ("9000-01-01T00:00:00Z", True)])
def test_an_image_that_has_expired_does_not_count(registry, tmp_path, expires, found):
    name = Reference(registry, f"team/{uuid4().hex}", "1-warm")
    base = read_image(make_base(tmp_path / "base")).manifest.digest
    recipe, options = make_recipe(tmp_path, "oci:base", name), BuildOptions(tmp_path / "cache", access=http())
    layout = make_image(tmp_path / "made", recipe, options, base)
    edit_annotations(layout, lambda annotations: annotations.update({PREFIX + EXPIRES: expires}))
    push_layout(layout, name, access=http())
    assert (find_existing(recipe, options) is not None) is found


def test_another_recipe_is_another_build(recipe, options, publish, tmp_path):
    publish(recipe, options)
    make_recipe(tmp_path, "oci:base")
    changed = load_recipe(tmp_path / "recipe.yaml", overrides=["container.args[0]=--debug"])
    assert find_existing(changed, options) is None


def test_another_base_image_is_another_build(recipe, options, publish, tmp_path):
    publish(recipe, options)
    edit_annotations(tmp_path / "base", lambda annotations: annotations.update(changed="yes"))
    assert find_existing(recipe, options) is None


@pytest.mark.parametrize("changed", ["database", "tool"])
def test_another_image_of_a_service_or_an_init_container_is_another_build(options, publish, tmp_path, changed):
    for name in ("base", "database", "tool"):
        make_base(tmp_path / name, name.encode())
    service = {"container": {"image": "oci:database", "readinessProbe": {"tcpSocket": {"port": 1}}}}
    recipe = make_recipe(
        tmp_path,
        "oci:base",
        build={
            "services": [{"name": "a", **service}, {"name": "b", **service}],
            "init": [{"container": "migrate"}],
        },
        initContainers=[{"name": "migrate", "image": "oci:tool"}],
    )
    digest = publish(recipe, options, "database", "tool")
    found = find_existing(recipe, options)
    assert found is not None
    assert found.digest == digest
    edit_annotations(tmp_path / changed, lambda annotations: annotations.update(changed="yes"))
    assert find_existing(recipe, options) is None


@pytest.mark.parametrize("image", ["oci:nowhere", "docker-daemon:database:1"])
def test_an_image_of_a_service_that_cannot_be_read_is_left_to_the_build(options, publish, tmp_path, image):
    make_base(tmp_path / "base")
    service = {"container": {"image": image, "readinessProbe": {"tcpSocket": {"port": 1}}}}
    recipe = make_recipe(tmp_path, "oci:base", build={"services": [{"name": "a", **service}]})
    publish(recipe, options)
    assert find_existing(recipe, options) is None


def test_other_options_are_another_build(recipe, options, publish):
    publish(recipe, options)
    assert find_existing(recipe, replace(options, force=True)) is None


def test_an_image_of_another_name_does_not_count(recipe, options, publish, tmp_path):
    publish(recipe, options)
    assert find_existing(make_recipe(tmp_path, "oci:base", replace(NAME, tag="2")), options) is None


def test_an_image_without_a_key_does_not_count(recipe, options, tmp_path):
    layout = make_base(tmp_path / "made")
    write = write_layout if options.output.kind is Transport.OCI else write_archive
    write(layout, read_image(layout), options.output.path, name=str(recipe.image))
    assert find_existing(recipe, options) is None


@pytest.mark.parametrize("options", [Transport.OCI_ARCHIVE], indirect=True)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_archive_does_not_count(recipe, options, publish, kept):
    publish(recipe, options)
    whole = options.output.path.read_bytes()
    # Only the zeros after the last member may be missing.
    end = len(whole.rstrip(b"\0"))
    options.output.path.write_bytes(whole[: int(end * kept)])
    assert find_existing(recipe, options) is None
    options.output.path.write_bytes(whole[: end - 1])
    assert find_existing(recipe, options) is None


@pytest.mark.parametrize("options", [Transport.OCI], indirect=True)
def test_a_layout_without_all_of_its_blobs_does_not_count(recipe, options, publish):
    digest = publish(recipe, options)
    for blob in (options.output.path / "blobs/sha256").iterdir():
        content = blob.read_bytes()
        blob.write_bytes(content[:-1])
        assert find_existing(recipe, options) is None
        blob.unlink()
        assert find_existing(recipe, options) is None
        blob.write_bytes(content)
    assert find_existing(recipe, options).digest == digest


def test_what_is_not_an_image_is_left_to_the_build(recipe, options):
    options.output.path.write_bytes(b"something else" * 100)
    assert find_existing(recipe, options) is None


@pytest.mark.parametrize("image", ["containers-storage:app:1", "docker-daemon:app:1", "docker-archive:base.tar"])
def test_a_base_image_that_takes_a_node_to_read_is_built_from_each_time(options, publish, tmp_path, image):
    make_base(tmp_path / "base")
    recipe = make_recipe(tmp_path, image)
    publish(recipe, options)
    assert find_existing(recipe, options) is None


def test_a_base_image_that_is_missing_is_left_to_the_build(options, publish, tmp_path):
    make_base(tmp_path / "base")
    recipe = make_recipe(tmp_path, "oci:nowhere")
    publish(recipe, options)
    assert find_existing(recipe, options) is None


def test_privileges_are_refused_before_anything_is_compared(recipe, options, publish):
    context = SecurityContext(privileged=True)
    asks = replace(recipe, container=replace(recipe.container, security_context=context))
    publish(asks, options)
    with pytest.raises(PrivilegeError):
        find_existing(asks, options)


def test_the_version_of_the_hosts_runtime_counts(recipe, options, tmp_path, monkeypatch):
    options = replace(options, runtime_endpoint="unix:///run/crio/crio.sock")
    versions = iter(["cri-o 1.36.3", "cri-o 1.36.4"])

    class Runtime:
        def __init__(self, _: str) -> None:
            self.version = next(versions)

    monkeypatch.setattr(existing, "find_host_runtime", Runtime)
    layout = make_base(tmp_path / "made", b"y")
    key = find_inputs(recipe, options, "cri-o 1.36.3").key(read_image(tmp_path / "base").manifest.digest)
    edit_annotations(layout, lambda annotations: annotations.update({PREFIX + BUILD_KEY: key}))
    write = write_layout if options.output.kind is Transport.OCI else write_archive
    write(layout, read_image(layout), options.output.path, name=str(NAME))
    assert find_existing(recipe, options) is not None
    assert find_existing(recipe, options) is None


# In a registry


@pytest.fixture
def repository(registry) -> Reference:
    return Reference(registry, f"team/{uuid4().hex}", "1-warm")


@pytest.fixture
def no_policy(monkeypatch, tmp_path) -> list[bool]:
    """Answers to the question whether the policy accepts images as they are; True at first."""
    answers = [True]
    monkeypatch.setattr(existing, "accepts_anything", lambda _: answers[0])
    return answers


def test_a_tag_with_the_key_is_found(repository, no_policy, tmp_path):
    options = BuildOptions(tmp_path / "cache", access=http())
    base = replace(repository, repository=f"{repository.repository}/base", tag="1")
    base_digest = push_layout(make_base(tmp_path / "base"), base, access=http())
    recipe = make_recipe(tmp_path, f"docker://{base}", repository)
    assert find_existing(recipe, options) is None

    layout = make_image(tmp_path / "made", recipe, options, base_digest)
    digest = push_layout(layout, repository, access=http())
    assert find_existing(recipe, options) == ExistingImage(repository, f"docker://{repository}", digest)

    # Its signature cannot be checked here.
    no_policy[0] = False
    assert find_existing(recipe, options) is None
    no_policy[0] = True

    push_layout(make_base(tmp_path / "newer", b"newer"), base, access=http())
    assert find_existing(recipe, options) is None


def test_a_registry_that_is_not_there_is_left_to_the_build(no_policy, tmp_path):
    # Nobody listens on port 9, and one attempt is enough to know.
    recipe = make_recipe(tmp_path, "oci:base", "127.0.0.1:9/team/app:1-warm")
    assert find_existing(recipe, BuildOptions(tmp_path / "cache", access=http())) is None


def test_an_image_that_the_build_would_sign_must_be_signed_with_the_same_key(registry, tmp_path):
    name = Reference(registry, f"team/{uuid4().hex}", "1-warm")
    base = read_image(make_base(tmp_path / "base")).manifest.digest
    recipe, key = make_recipe(tmp_path, "oci:base", name), make_key(tmp_path)
    options = BuildOptions(tmp_path / "cache", access=http())
    digest = push_layout(make_image(tmp_path / "made", recipe, options, base), name, access=http())
    assert find_existing(recipe, options).digest == digest
    signing = replace(options, signer=key)
    assert find_existing(recipe, signing) is None
    attach_signatures(name, digest, make_key(tmp_path, "other"), [], access=http())
    assert find_existing(recipe, signing) is None
    attach_signatures(name, digest, key, [], access=http())
    assert find_existing(recipe, signing).digest == digest
