import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.core.errors import ImageReferenceError
from warmstart.core.reference import Reference, Source, Transport, parse_reference, parse_source

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpine", Reference("docker.io", "library/alpine", "latest")),
        ("alpine:3.20", Reference("docker.io", "library/alpine", "3.20")),
        ("team/app", Reference("docker.io", "team/app", "latest")),
        ("docker.io/alpine", Reference("docker.io", "library/alpine", "latest")),
        ("index.docker.io/team/app:1", Reference("docker.io", "team/app", "1")),
        ("localhost/app:1.0", Reference("localhost", "app", "1.0")),
        ("localhost:5000/app", Reference("localhost:5000", "app", "latest")),
        ("localhost:5000", Reference("docker.io", "library/localhost", "5000")),
        ("reg.example.com/a/b/c:v1", Reference("reg.example.com", "a/b/c", "v1")),
        ("127.0.0.1:5000/app", Reference("127.0.0.1:5000", "app", "latest")),
        ("[::1]:5000/app:1", Reference("[::1]:5000", "app", "1")),
        ("Registry/app", Reference("Registry", "app", "latest")),
        ("a/b.c_d__e--f:_x", Reference("docker.io", "a/b.c_d__e--f", "_x")),
        (f"reg.io/app@{SHA256}", Reference("reg.io", "app", None, SHA256)),
        (f"reg.io/app:1@{SHA512}", Reference("reg.io", "app", "1", SHA512)),
    ],
)
def test_a_name_is_read_as_docker_reads_it(text, expected):
    reference = parse_reference(text)
    assert reference == expected
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "is not a repository"),
        ("Alpine", "'library/Alpine' is not a repository"),
        ("team/App", "'team/App' is not a repository"),
        ("a//b", "is not a repository"),
        ("a/b/", "is not a repository"),
        ("/a", "is not a repository"),
        ("a..b", "is not a repository"),
        ("a___b", "is not a repository"),
        ("../etc", "'..' is not a registry"),
        ("reg.io/../etc", "is not a repository"),
        ("app: 1", "' 1' is not a tag"),
        ("app:1\n", "is not a tag"),
        ("app:", "'' is not a tag"),
        ("app:.1", "is not a tag"),
        ("app:" + "x" * 129, "is not a tag"),
        ("app:é", "is not a tag"),
        ("app:1:2", "'1:2' is not a tag"),
        ("app@sha256:abc", "is not a digest"),
        ("app@", "is not a digest"),
        (f"app@{SHA256.upper()}", "is not a digest"),
        ("app@md5:" + "0" * 32, "is not a digest"),
        ("-reg.io/app", "'-reg.io' is not a registry"),
        ("reg.io:x/app", "'reg.io:x' is not a registry"),
        ("https://reg.io/app", "'https:' is not a registry"),
        ("0123456789abcdef" * 4, "an image id"),
        ("reg.io/" + "a" * 256, "is not a repository"),
        ("a" * 2000, "longer than 1024"),
    ],
)
def test_a_bad_name_is_refused_with_the_part_that_is_wrong(text, wrong):
    with pytest.raises(ImageReferenceError, match=r"is not the name of an image") as caught:
        parse_reference(text)
    assert wrong in caught.value.brief
    assert "[REGISTRY[:PORT]/]REPOSITORY" in caught.value.hint


@given(st.text(alphabet=string.ascii_letters + string.digits + ":/@.-_[] \n", max_size=40))
def test_what_is_read_is_written_and_read_again_the_same(text):
    try:
        reference = parse_reference(text)
    except ImageReferenceError:
        return
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "expected", "for_skopeo"),
    [
        (
            "alpine",
            Source(Transport.REGISTRY, Reference("docker.io", "library/alpine", "latest")),
            "docker://docker.io/library/alpine:latest",
        ),
        (
            f"docker://reg.io/app:1@{SHA256}",
            Source(Transport.REGISTRY, Reference("reg.io", "app", "1", SHA256)),
            f"docker://reg.io/app@{SHA256}",
        ),
        (
            "localhost/app:1",
            Source(Transport.CONTAINERS_STORAGE, Reference("localhost", "app", "1")),
            "containers-storage:localhost/app:1",
        ),
        (
            "localhost:5000/app:1",
            Source(Transport.REGISTRY, Reference("localhost:5000", "app", "1")),
            "docker://localhost:5000/app:1",
        ),
        (
            "containers-storage:quay.io/a/b",
            Source(Transport.CONTAINERS_STORAGE, Reference("quay.io", "a/b", "latest")),
            "containers-storage:quay.io/a/b:latest",
        ),
        (
            "docker-daemon:app:2",
            Source(Transport.DOCKER_DAEMON, Reference("docker.io", "library/app", "2")),
            "docker-daemon:docker.io/library/app:2",
        ),
        ("oci:out", Source(Transport.OCI, path=Path("out")), "oci:out"),
        ("oci:/a/b:1.0", Source(Transport.OCI, path=Path("/a/b"), image="1.0"), "oci:/a/b:1.0"),
        ("oci-archive:a.tar", Source(Transport.OCI_ARCHIVE, path=Path("a.tar")), "oci-archive:a.tar"),
        (
            "docker-archive:a.tar:app:1",
            Source(Transport.DOCKER_ARCHIVE, path=Path("a.tar"), image="app:1"),
            "docker-archive:a.tar:app:1",
        ),
    ],
)
def test_a_source_is_read_and_given_on_to_skopeo(text, expected, for_skopeo):
    assert parse_source(text) == expected
    assert str(parse_source(text)) == for_skopeo


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("oci:", "has no path"),
        ("oci-archive::1", "has no path"),
        ("dir:/tmp/image", "'dir' is not an image transport"),
        ("https://reg.io/app", "'https' is not an image transport"),
        ("containers-storage:", "is not a repository"),
        ("docker-daemon:App", "is not a repository"),
    ],
)
def test_a_bad_source_is_refused(text, wrong):
    with pytest.raises(ImageReferenceError) as caught:
        parse_source(text)
    assert wrong in caught.value.brief
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("localhost/app:1", "localhost/app:1"),
        ("oci-archive:/builds/17/app.tar", "oci-archive:app.tar"),
        ("oci:../out:app:1", "oci:out:app:1"),
    ],
)
def test_a_label_says_nothing_of_where_files_lie(text, label):
    assert parse_source(text).label == label
