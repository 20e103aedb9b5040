"""Where the image of a container may be, and what saved images say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmstart.core.errors import ClusterError, ImageError
from warmstart.core.reference import parse_source
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.image.layout import read_image, write_archive, write_index
from warmstart.image.manifest import OCI_MANIFEST, Descriptor, find_digest
from warmstart.kube.pods import ContainerState, Pod
from warmstart.pods.migrate import check_movable
from warmstart.pods.save import POD, find_sources, read_record

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("image", "image_id", "sources"),
    [
        ("r.io/app:1", f"r.io/app@{DIGEST}", [f"docker://r.io/app@{DIGEST}", "docker://r.io/app:1"]),
        ("r.io/app:1", f"docker-pullable://r.io/app@{DIGEST}", [f"docker://r.io/app@{DIGEST}", "docker://r.io/app:1"]),
        # As a runtime tells that does not know any digest.
        ("r.io/app:1", "0" * 64, ["docker://r.io/app:1"]),
        ("busybox", "", ["docker://docker.io/library/busybox:latest"]),
    ],
)
def test_an_image_is_looked_for_by_its_digest_first(image, image_id, sources):
    found = find_sources(ContainerState("app", image, image_id))
    assert [str(source) for source in found] == sources


def test_an_image_that_only_the_node_has_is_refused():
    with pytest.raises(ImageError, match="is not in a registry"):
        find_sources(ContainerState("app", "localhost/app:1", "0" * 64))


def make_pod(*owners: dict[str, object]) -> Pod:
    manifest = {"metadata": {"name": "app-1", "ownerReferences": list(owners)}}
    return Pod("shop", "app-1", "uid", "node", "10.0.0.1", "10.1.0.1", "Running", True, False, (), manifest)


@pytest.mark.parametrize("owners", [[], [{"kind": "ReplicaSet", "name": "app", "controller": True}]])
def test_pods_of_their_own_and_of_deployments_can_be_moved(owners):
    check_movable(make_pod(*owners))


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "Job", "Node"])
def test_pods_that_would_be_made_anew_cannot_be_moved(kind):
    with pytest.raises(ClusterError, match=f"its {kind} app would recreate it"):
        check_movable(make_pod({"kind": kind, "name": "app", "controller": True}))


def make_archive(directory: Path, annotations: dict[str, str]) -> str:
    """An oci-archive of an image without any layer."""
    layout = directory / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)

    def put(document: object, media_type: str) -> Descriptor:
        data = json.dumps(document).encode()
        digest = find_digest(data)
        (layout / "blobs" / digest.replace(":", "/")).write_bytes(data)
        return Descriptor(media_type, digest, len(data))

    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": put(config, "application/vnd.oci.image.config.v1+json").to_json(),
        "layers": [],
        "annotations": annotations,
    }
    write_index(layout, put(manifest, OCI_MANIFEST))
    write_archive(layout, read_image(layout), directory / "image.tar", name="r.io/saved:1")
    return f"oci-archive:{directory}/image.tar"


MANIFEST = {
    "metadata": {"name": "saved", "namespace": "kube-system"},
    "spec": {"containers": [{"name": "proxy", "image": "proxy:1"}, {"name": "app", "image": "r.io/saved:1"}]},
}


def test_a_record_is_read(tmp_path):
    archive = make_archive(tmp_path, {POD: json.dumps(MANIFEST), CHECKPOINT_NAME: "app"})
    record = read_record(parse_source(archive))
    assert (record.manifest, record.container, str(record.name)) == (MANIFEST, "app", "r.io/saved:1")
    # Where it is pushed to is the caller's to say, too.
    assert list(map(str, record.privileges)) == ["image=r.io/saved:1", "image=proxy:1"]


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {POD: json.dumps(MANIFEST)},
        {POD: json.dumps(MANIFEST), CHECKPOINT_NAME: "web"},
        {POD: "no JSON", CHECKPOINT_NAME: "app"},
        {POD: "[]", CHECKPOINT_NAME: "app"},
        {POD: '{"spec": {}}', CHECKPOINT_NAME: "app"},
        {POD: json.dumps({"spec": MANIFEST["spec"]}), CHECKPOINT_NAME: "app"},
        {POD: "[" * 100_000, CHECKPOINT_NAME: "app"},
        {POD: '{"metadata": {"name": "x"}, "spec": {"containers": ["app"]}}', CHECKPOINT_NAME: "app"},
    ],
)
def test_an_image_without_a_record_is_refused(annotations, tmp_path):
    with pytest.raises(ImageError, match="has no pod record"):
        read_record(parse_source(make_archive(tmp_path, annotations)))
