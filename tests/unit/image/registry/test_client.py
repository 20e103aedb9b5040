"""Against a real registry: docker-registry, which has no referrers API and cannot delete tags."""

import json
import tracemalloc
from dataclasses import replace
from hashlib import sha256
from uuid import uuid4

import pytest

from tests.support.registry_access import http
from warmstart.core.errors import ImageError, RegistryError
from warmstart.core.reference import Reference
from warmstart.image.layout import read_image
from warmstart.image.manifest import DOCUMENT_LIMIT_BYTES, OCI_INDEX, Platform
from warmstart.image.registry.client import (
    attach_report,
    delete_manifest,
    delete_tag,
    exists,
    find_manifest_digest,
    push_layout,
    read_config,
    read_manifest,
    read_reports,
    tag_manifest,
)

REPORT = "application/vnd.example.report+json"


@pytest.fixture
def target(proxy) -> Reference:
    """A new repository, behind the proxy that sees what is sent."""
    return Reference(proxy.host, f"team/{uuid4().hex}", "1.0")


@pytest.fixture
def image(layout):
    """A layout with one image of its own: two layers of 3 MB and a few bytes."""
    config = {"os": "linux", "architecture": "amd64", "config": {"Cmd": ["app"], "Labels": {"id": uuid4().hex}}}
    layers = (uuid4().bytes * 200_000, uuid4().bytes)
    layout.list(layout.image(*layers, config=config, manifest={"annotations": {"a": "b"}}))
    return layout


def test_an_image_is_pushed_and_read_back(image, target):
    digest = push_layout(image.path, target, access=http())
    pushed = read_image(image.path)
    read = read_manifest(target, access=http())
    assert read.digest == digest == pushed.manifest.digest
    assert (read.layers, read.annotations) == (pushed.manifest.layers, {"a": "b"})
    assert read_config(target, access=http()) == pushed.config
    assert read_manifest(replace(target, tag=None, digest=digest), access=http()) == read


def test_blobs_come_first_then_the_manifest_by_its_digest_then_the_tag(image, target, proxy):
    digest = push_layout(image.path, target, access=http())
    puts = [line.partition("?")[0].removeprefix(f"PUT /v2/{target.repository}/") for line in proxy.writes()]
    puts = [line for line in puts if not line.startswith(("POST", "PATCH"))]
    assert [line.rpartition("/")[0] for line in puts[:3]] == ["blobs/uploads"] * 3
    assert puts[3:] == [f"manifests/{digest}", "manifests/1.0"]


def test_the_same_content_again_sends_nothing(image, target, proxy):
    push_layout(image.path, target, access=http())
    proxy.seen.clear()
    push_layout(image.path, target, access=http())
    assert proxy.seen
    assert proxy.writes() == []
    push_layout(image.path, replace(target, tag="2.0"), access=http())
    assert proxy.writes() == [f"PUT /v2/{target.repository}/manifests/2.0"]


def test_without_a_tag_the_image_is_there_by_its_digest_only_until_it_is_tagged(image, target):
    digest = push_layout(image.path, replace(target, tag=None), access=http())
    assert exists(replace(target, digest=digest), access=http())
    assert not exists(target, access=http())
    assert not exists(replace(target, tag="latest"), access=http())
    tag_manifest(target, digest, access=http())
    assert read_manifest(target, access=http()).digest == digest


def test_a_tag_moves(image, target):
    first = push_layout(image.path, target, access=http())
    image.list(image.image(b"other"))
    second = push_layout(image.path, target, access=http())
    assert first != second == read_manifest(target, access=http()).digest
    tag_manifest(target, first, access=http())
    assert read_manifest(target, access=http()).digest == first


def test_what_is_not_there_cannot_be_tagged(image, target):
    digest = push_layout(image.path, target, access=http())
    with pytest.raises(RegistryError, match=f"has no {target.name}@sha256:0000") as caught:
        tag_manifest(target, "sha256:" + "0" * 64, access=http())
    assert "check the name" in caught.value.hint
    with pytest.raises(RegistryError, match="has no tag to set"):
        tag_manifest(replace(target, tag=None), digest, access=http())


def test_an_image_that_is_not_there_is_told_of(target):
    assert not exists(target, access=http())
    with pytest.raises(RegistryError, match=f"has no {target.name}:1.0"):
        read_manifest(target, access=http())


def test_the_image_has_to_be_the_one_of_the_digest(image, target):
    with pytest.raises(RegistryError, match="cannot be pushed as"):
        push_layout(image.path, replace(target, digest="sha256:" + "0" * 64), access=http())


def test_layers_of_the_base_image_are_mounted_and_not_sent(image, target, proxy):
    base = replace(target, repository=f"base/{uuid4().hex}")
    push_layout(image.path, base, access=http())
    proxy.seen.clear()
    push_layout(image.path, target, mount_from=base, access=http())
    assert not [line for line in proxy.seen if line.startswith("PATCH")]
    mounts = [line for line in proxy.seen if "mount=" in line and f"from=base%2F{base.repository[5:]}" in line]
    assert len(mounts) == 3
    assert exists(target, access=http())


def test_what_the_base_image_lacks_is_sent(image, target, proxy):
    push_layout(image.path, target, mount_from=replace(target, repository="no/such"), access=http())
    assert len([line for line in proxy.seen if line.startswith("PATCH")]) == 3


def test_a_base_image_that_may_not_be_read_does_not_stop_the_push(image, target, proxy):
    proxy.answer("POST .*mount=", 401, {"WWW-Authenticate": 'Basic realm="x"'}, times=3)
    push_layout(image.path, target, mount_from=replace(target, repository="secret/base"), access=http())
    assert exists(target, access=http())


def test_an_empty_layer_and_one_that_comes_twice_are_pushed(layout, target):
    layout.list(layout.image(b"", b"twice", b"twice"))
    push_layout(layout.path, target, access=http())
    assert [layer.size_bytes for layer in read_manifest(target, access=http()).layers] == [0, 5, 5]


def test_progress_goes_from_nothing_to_all(image, target):
    seen: list[tuple[int, int, str]] = []
    push_layout(image.path, target, on_progress=lambda *step: seen.append(step), access=http())
    total = sum(blob.size_bytes for blob in read_image(image.path).manifest.blobs)
    done = [step[0] for step in seen]
    assert {step[1] for step in seen} == {total}
    assert done == sorted(done)
    assert done[-1] == total
    # The first layer has more than three pieces of 1 MiB.
    assert len([step for step in seen if step[2] == "layer 1 of 2"]) > 3
    assert {step[2] for step in seen} == {"layer 1 of 2", "layer 2 of 2", "the config"}


def test_progress_is_whole_when_all_is_there(image, target):
    push_layout(image.path, target, access=http())
    seen: list[int] = []
    push_layout(image.path, target, on_progress=lambda done, total, what: seen.append(total - done), access=http())
    assert seen[-1] == 0


def test_a_large_layer_is_never_whole_in_memory(layout, registry):
    size = 64 << 20
    digest = sha256()
    path = layout.path / "large"
    with path.open("wb") as file:
        file.truncate(size)
    for _ in range(64):
        digest.update(bytes(1 << 20))
    path.rename(layout.path / "blobs/sha256" / digest.hexdigest())
    layer = {"mediaType": "x/y", "digest": f"sha256:{digest.hexdigest()}", "size": size}
    layout.list(layout.image(manifest={"layers": [layer]}))
    tracemalloc.start()
    try:
        push_layout(layout.path, Reference(registry, f"large/{uuid4().hex}", "1"), access=http())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20


def test_a_damaged_layer_is_not_published(image, target, proxy):
    layer = read_image(image.path).manifest.layers[0]
    blob = image.path / "blobs" / layer.digest.replace(":", "/")
    blob.write_bytes(blob.read_bytes()[:-1] + b"X")
    with pytest.raises(ImageError, match="is damaged"):
        push_layout(image.path, target, access=http())
    assert not [line for line in proxy.writes() if line.startswith("PUT")]


@pytest.mark.parametrize("platform", [Platform("linux", "amd64"), Platform("linux", "arm64")])
def test_the_platform_is_chosen_in_an_image_for_several(layout, target, platform):
    # An index is made of manifests that are there already, under a tag of its own.
    entries = []
    for architecture in ("amd64", "arm64"):
        its = {"os": "linux", "architecture": architecture}
        entry = layout.image(architecture.encode(), config=its, platform=its)
        layout.list(entry)
        push_layout(layout.path, replace(target, tag=None), access=http())
        entries.append(entry)
    put_index(target, entries)
    assert read_config(target, platform=platform, access=http()).platform == platform
    with pytest.raises(ImageError, match="holds no image for linux/s390x"):
        read_manifest(target, platform=Platform("linux", "s390x"), access=http())


def put_index(target: Reference, entries: list[dict]) -> None:
    import requests

    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    url = f"http://{target.registry}/v2/{target.repository}/manifests/{target.tag}"
    with requests.put(url, body, headers={"Content-Type": OCI_INDEX}) as response:
        assert response.status_code == 201


def test_reports_are_listed_under_the_tag_where_the_registry_has_no_referrers_api(image, target):
    digest = push_layout(image.path, target, access=http())
    assert read_reports(target, digest, artifact_type=REPORT, access=http()) == ()
    first = attach_report(target, digest, b'{"n": 1}', artifact_type=REPORT, access=http())
    attach_report(target, digest, b'{"n": 2}', artifact_type=REPORT, access=http())
    attach_report(target, digest, b"{}", artifact_type="application/vnd.example.other", access=http())
    assert read_reports(target, digest, artifact_type=REPORT, access=http()) == (b'{"n": 1}', b'{"n": 2}')
    manifest = read_manifest(replace(target, digest=first), access=http())
    assert manifest.artifact_type == REPORT
    assert manifest.subject.digest == digest
    assert manifest.config.media_type == "application/vnd.oci.empty.v1+json"
    assert exists(replace(target, tag=digest.replace(":", "-")), access=http())


def test_the_same_report_again_changes_nothing(image, target, proxy):
    digest = push_layout(image.path, target, access=http())
    first = attach_report(target, digest, b"{}", artifact_type=REPORT, access=http())
    proxy.seen.clear()
    assert attach_report(target, digest, b"{}", artifact_type=REPORT, access=http()) == first
    assert proxy.writes() == [f"PUT /v2/{target.repository}/manifests/{first}"]
    assert read_reports(target, digest, artifact_type=REPORT, access=http()) == (b"{}",)


def test_a_registry_that_has_the_referrers_api_keeps_the_list_itself(image, target, proxy):
    digest = push_layout(image.path, target, access=http())
    proxy.edit("PUT .*manifests", lambda answer: replace_headers(answer, {"OCI-Subject": digest}))
    report = attach_report(target, digest, b'{"n": 1}', artifact_type=REPORT, access=http())
    assert not exists(replace(target, tag=digest.replace(":", "-")), access=http())
    entry = {"mediaType": "x/y", "digest": report, "size": 1, "artifactType": REPORT}
    other = {**entry, "digest": digest, "artifactType": "other"}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry, other]}).encode()
    proxy.answer(f"GET .*referrers/{digest}", 200, {"Content-Type": OCI_INDEX}, index)
    assert read_reports(target, digest, artifact_type=REPORT, access=http()) == (b'{"n": 1}',)


def test_no_report_is_attached_to_what_is_not_there(target):
    with pytest.raises(RegistryError, match="the registry has no"):
        attach_report(target, "sha256:" + "0" * 64, b"{}", artifact_type=REPORT, access=http())


def test_a_manifest_is_deleted_with_its_tags(image, target):
    digest = push_layout(image.path, target, access=http())
    delete_manifest(target, digest, access=http())
    assert not exists(target, access=http())
    with pytest.raises(RegistryError, match="MANIFEST_UNKNOWN"):
        delete_manifest(target, digest, access=http())


def test_a_registry_that_cannot_delete_tags_says_so(image, target):
    push_layout(image.path, target, access=http())
    with pytest.raises(RegistryError, match=f"could not delete {target}: .* answered 4"):
        delete_tag(target, access=http())
    assert exists(target, access=http())


def replace_headers(answer, headers):
    return replace(answer, headers={**answer.headers, **headers})


def replace_body(answer, body):
    return replace(answer, headers={**answer.headers, "Content-Length": str(len(body))}, body=body)


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_manifest_that_is_not_what_its_digest_says_is_refused(image, target, proxy, by):
    digest = push_layout(image.path, target, access=http())
    proxy.edit("GET .*manifests", lambda answer: replace_body(answer, answer.body + b" "))
    with pytest.raises(RegistryError, match=f"the content does not match {digest}"):
        read_manifest(target if by == "tag" else replace(target, digest=digest), access=http())


def test_a_config_that_is_not_what_its_digest_says_is_refused(image, target, proxy):
    push_layout(image.path, target, access=http())
    proxy.edit("GET .*blobs", lambda answer: replace_body(answer, b"{}"))
    with pytest.raises(RegistryError, match="the content does not match sha256:"):
        read_config(target, access=http())


@pytest.mark.parametrize("said", ["sha256:" + "0" * 64, "nonsense", "sha256:../../x"])
def test_a_digest_in_a_header_is_not_believed(image, target, proxy, said):
    push_layout(image.path, target, access=http())
    proxy.edit("GET .*manifests", lambda answer: replace_headers(answer, {"Docker-Content-Digest": said}))
    with pytest.raises(RegistryError, match="the content does not match"):
        read_manifest(target, access=http())


def test_a_manifest_that_is_too_long_is_not_read(image, target, proxy):
    push_layout(image.path, target, access=http())
    proxy.edit("GET .*manifests", lambda answer: replace_body(answer, b" " * (DOCUMENT_LIMIT_BYTES + 1)))
    with pytest.raises(RegistryError, match="the answer exceeds 4194304 bytes"):
        read_manifest(target, access=http())


def test_a_registry_that_stores_something_else_is_caught(image, target, proxy):
    proxy.edit("PUT .*manifests", lambda answer: replace_headers(answer, {"Docker-Content-Digest": "sha256:1"}))
    with pytest.raises(RegistryError, match="the registry stored sha256:1, expected sha256:"):
        push_layout(image.path, target, access=http())
    assert not exists(target, access=http())


# The digest of a name


def without_digest(answer):
    return replace(answer, headers={k: v for k, v in answer.headers.items() if k.lower() != "docker-content-digest"})


def test_the_digest_of_a_name_is_found_without_its_manifest(image, target, proxy):
    digest = push_layout(image.path, target, access=http())
    before = len(proxy.seen)
    assert find_manifest_digest(target, access=http()) == digest
    assert [line.split()[0] for line in proxy.seen[before:]] == ["HEAD"]


def test_the_digest_of_a_name_is_found_in_a_registry_that_does_not_send_it(image, target, proxy):
    digest = push_layout(image.path, target, access=http())
    for method in ("HEAD", "GET"):
        proxy.edit(f"{method} .*manifests/1.0", without_digest)
    assert find_manifest_digest(target, access=http()) == digest


def test_a_name_that_is_not_there_has_no_digest(target):
    assert find_manifest_digest(target, access=http()) is None


def test_a_question_that_is_not_worth_waiting_is_asked_once(image, target, proxy, pauses):
    push_layout(image.path, target, access=http())
    pauses.clear()
    proxy.answer("HEAD", 503)
    with pytest.raises(RegistryError, match="answered 503"):
        find_manifest_digest(target, access=http())
    proxy.answer("GET", 503)
    with pytest.raises(RegistryError, match="answered 503"):
        read_manifest(target, access=http(), retries=0)
    assert pauses == []
