import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.core.errors import ImageError
from warmstart.image.manifest import (
    DOCUMENT_LIMIT_BYTES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    check_platform,
    choose_platform,
    find_digest,
    find_host_platform,
    parse_config,
    parse_index,
    parse_manifest,
)

DIGEST = "sha256:" + "ab" * 32
OWN = Descriptor(OCI_MANIFEST, DIGEST, 1)
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": DIGEST, "size": 7}


def manifest(**changes: object) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": LAYER, "layers": [LAYER], **changes}
    return json.dumps(document).encode()


def test_a_manifest_becomes_dataclasses():
    subject = {"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 3}
    read = parse_manifest(manifest(annotations={"a": "b"}, artifactType="x/report", subject=subject), OWN)
    layer = Descriptor("application/vnd.oci.image.layer.v1.tar+zstd", DIGEST, 7)
    assert (read.digest, read.config, read.layers) == (DIGEST, layer, (layer,))
    assert (read.annotations, read.artifact_type) == ({"a": "b"}, "x/report")
    assert read.subject == Descriptor(OCI_MANIFEST, DIGEST, 3)


def test_null_and_absent_are_the_same_as_for_go():
    read = parse_manifest(manifest(annotations=None, layers=None), OWN)
    assert (read.annotations, read.layers) == ({}, ())


@pytest.mark.parametrize("media_type", [*MANIFEST_TYPES, *INDEX_TYPES])
def test_docker_types_are_read_like_oci_types(media_type):
    if media_type in MANIFEST_TYPES:
        assert parse_manifest(manifest(mediaType=media_type), Descriptor(media_type, DIGEST, 1)).layers
    else:
        assert parse_index(json.dumps({"manifests": [LAYER]}).encode(), media_type).manifests


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"\xff", "is not UTF-8, at byte 0"),
        (b"{", "is not JSON, at line 1, column 2: "),
        (b"[" * 100_000, "is nested too deeply"),
        (b"1" * 5000, "is not acceptable JSON: "),
        (b"[]", "must be an object, not []"),
        (b"null", "must be an object, not nothing"),
        (manifest(config=None), "config must be an object, not nothing"),
        (manifest(layers={"0": LAYER}), "layers must be a list"),
        (manifest(layers=[{**LAYER, "size": -1}]), "layers[0] size must be a size in bytes, not -1"),
        (manifest(layers=[{**LAYER, "size": True}]), "layers[0] size must be a size"),
        (manifest(layers=[{**LAYER, "size": 1 << 63}]), "layers[0] size must be a size"),
        (manifest(layers=[{**LAYER, "digest": "sha256:../../etc/passwd"}]), "layers[0] digest must be a digest"),
        (manifest(layers=[{**LAYER, "digest": "md5:" + "0" * 32}]), "layers[0] digest must be a digest"),
        (manifest(annotations={"a": 1}), "annotations['a'] must be a string, not 1"),
        (manifest(annotations={"a": "\ud800"}), "is not acceptable JSON: a string holds half a surrogate pair"),
        (manifest(annotations={"\ud800": "a"}), "is not acceptable JSON: a string holds half a surrogate pair"),
        (manifest(mediaType=INDEX_TYPES[0]), "but declares"),
        (manifest(manifests=[LAYER]), "unexpected field for this media type: manifests"),
        (b" " * (DOCUMENT_LIMIT_BYTES + 1), "exceeds 4194304 bytes"),
    ],
)
def test_a_broken_manifest_is_refused_by_its_field(data, wrong):
    with pytest.raises(ImageError) as caught:
        parse_manifest(data, OWN)
    assert wrong in caught.value.brief
    assert DIGEST in caught.value.brief


def test_a_type_that_is_not_understood_is_named():
    with pytest.raises(ImageError, match=r"unsupported media type: 'application/vnd.docker.distribution.manifest.v1"):
        parse_manifest(manifest(), Descriptor("application/vnd.docker.distribution.manifest.v1+json", DIGEST, 1))


@pytest.mark.parametrize("name", ["config", "layers"])
def test_an_index_that_is_a_manifest_too_is_refused(name):
    with pytest.raises(ImageError, match=f"for this media type: {name}"):
        parse_index(json.dumps({"manifests": [], name: []}).encode())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_nothing_but_an_image_error_comes_out_of_rubbish(value):
    for document in (value, {"layers": value}, {"config": value}, {"os": value, "config": value}):
        data = json.dumps(document).encode()
        for parse in (lambda data: parse_manifest(data, OWN), parse_config, parse_index):
            with suppress(ImageError):
                parse(data)


def test_a_config_becomes_a_dataclass():
    run = {
        "Entrypoint": ["java"],
        "Cmd": ["-jar", "app.jar"],
        "Env": ["A=1=2", "B=", "C"],
        "User": "1000:1000",
        "ExposedPorts": {"8080/tcp": {}},
        "WorkingDir": "/app",
        "Labels": {"a": "b"},
    }
    document = {"os": "linux", "architecture": "arm", "variant": "v7", "created": "2024-01-01T00:00:00Z"}
    config = parse_config(json.dumps({**document, "config": run}).encode())
    assert config.platform == Platform("linux", "arm", "v7")
    assert (config.entrypoint, config.cmd) == (("java",), ("-jar", "app.jar"))
    assert config.env == (("A", "1=2"), ("B", ""), ("C", ""))
    assert (config.user, config.exposed_ports, config.working_dir) == ("1000:1000", ("8080/tcp",), "/app")
    assert (config.labels, config.created) == ({"a": "b"}, "2024-01-01T00:00:00Z")


def test_a_config_without_a_container_part_is_all_defaults():
    config = parse_config(b'{"os": "linux", "architecture": "amd64"}')
    assert (config.entrypoint, config.env, config.labels) == ((), (), {})


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Platform("linux", "amd64"), 0),
        (Platform("linux", "arm64"), 1),
        (Platform("linux", "arm", "v7"), 3),
        (Platform("linux", "arm"), 2),
    ],
)
def test_the_platform_is_chosen(wanted, chosen):
    there = [
        Platform("linux", "amd64"),
        Platform("linux", "arm64", "v8"),
        Platform("linux", "arm", "v6"),
        Platform("linux", "arm", "v7"),
        Platform("unknown", "unknown"),
    ]
    entries = [Descriptor(OCI_MANIFEST, DIGEST, place, platform=each) for place, each in enumerate(there)]
    assert choose_platform(entries, wanted, "it").size_bytes == chosen


def test_a_platform_that_is_not_there_is_refused_with_those_that_are():
    entries = [Descriptor(OCI_MANIFEST, DIGEST, 1, platform=Platform("linux", "arm", "v7"))]
    with pytest.raises(ImageError, match="it holds no image for linux/s390x") as caught:
        choose_platform(entries, Platform("linux", "s390x"), "it")
    assert caught.value.hint == "it has: 'linux/arm/v7'"


def test_an_only_manifest_without_a_platform_is_for_any():
    assert choose_platform([OWN], None, "it") is OWN


def test_a_descriptor_is_written_as_it_is_read():
    full = Descriptor("x/y", DIGEST, 5, {"a": "b"}, Platform("linux", "arm", "v7"), "x/report")
    index = json.dumps({"manifests": [full.to_json(), OWN.to_json()]}).encode()
    assert parse_index(index).manifests == (full, OWN)
    assert OWN.to_json() == {"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 1}


def test_digests_are_those_of_sha256sum_and_sha512sum():
    assert find_digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert find_digest(b"", "sha512").startswith("sha512:cf83e1357eefb8bd")


def test_this_machine_has_a_platform():
    assert find_host_platform().os == "linux"


def test_an_image_for_another_machine_is_refused():
    own = find_host_platform()
    check_platform(own, "app:1")
    foreign = Platform("linux", "s390x" if own.architecture != "s390x" else "amd64")
    with pytest.raises(ImageError, match=f"^app:1 is for {foreign}, but this machine is {own}$") as caught:
        check_platform(foreign, "app:1")
    assert "or build on linux" in caught.value.hint
