"""Registries that misbehave: each way ends in an error that says so, in bounded time and memory."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from uuid import uuid4

import pytest
from support.bad_registry import READS, BadRegistry, run_bad_registry

from tests.support.registry_access import http
from warmstart.core.errors import ImageError, RegistryError
from warmstart.core.reference import Reference
from warmstart.image.layout import read_image
from warmstart.image.registry.challenge import Challenge, parse_challenges
from warmstart.image.registry.client import download_blob, exists, push_layout, read_config


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch):
    monkeypatch.setattr("warmstart.image.registry.transport.ANSWER_TIMEOUT_S", 2.0)
    monkeypatch.setattr("warmstart.image.registry.transport.PIECE_TIMEOUT_S", 2.0)


@pytest.fixture
def image(layout):
    layout.list(layout.image(b"one" * 100_000, uuid4().bytes))
    return layout.path


@pytest.fixture
def auth_file(tmp_path):
    def write(host: str):
        path = tmp_path / "auth.json"
        path.write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(b"me:secret").decode()}}}))
        return path

    return write


def target(registry: BadRegistry) -> Reference:
    return Reference(registry.host, "app", "1.0")


def read_layer(image: Path, registry: BadRegistry) -> None:
    with download_blob(target(registry), read_image(image).manifest.layers[0], access=http()) as content:
        while content.read(1 << 16):
            pass


@pytest.mark.parametrize("way", READS)
def test_a_read_from_a_registry_that(image, pauses, way):
    misbehave, said = READS[way]
    with run_bad_registry(BadRegistry(misbehave, image)) as registry, pytest.raises(RegistryError, match=said):
        read_config(target(registry), access=http())
    assert len(registry.seen) <= 12


def test_one_that_behaves_is_read_and_pushed_to(image):
    with run_bad_registry(BadRegistry(lambda _: False, image)) as registry:
        assert read_config(target(registry), access=http()) == read_image(image).config
        assert push_layout(image, target(registry), access=http()) == read_image(image).manifest.digest


@pytest.mark.parametrize(
    ("misbehave", "said"),
    [
        (lambda r: r.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", b"o"), "is too slow"),
        (lambda r: r.drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"), "is too slow"),
        (lambda r: r.reply(200, b"one" * 50_000, size=300_000), "the connection to .* failed"),
        (lambda r: r.reply(200, b"one" * 99_999 + b"two"), "is damaged"),
    ],
)
def test_a_layer_that_drips_breaks_off_or_is_another(image, pauses, misbehave, said):
    with (
        run_bad_registry(BadRegistry(misbehave, image)) as registry,
        pytest.raises((RegistryError, ImageError), match=said),
    ):
        read_layer(image, registry)


def test_a_layer_that_was_stored_compressed_is_what_its_digest_says(image):
    """Storage behind a registry may have this header with a blob that is compressed itself."""
    layer = read_image(image).manifest.layers[0]
    answer = BadRegistry(lambda r: r.reply(200, b"one" * 100_000, Content_Encoding="gzip"), image)
    with run_bad_registry(answer) as registry, download_blob(target(registry), layer, access=http()) as content:
        assert content.read(1 << 20) == b"one" * 100_000


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_credentials_do_not_follow_a_redirect(image, auth_file, status):
    with run_bad_registry(BadRegistry(lambda _: False, image)) as storage:

        def lead_away(request) -> bool:
            if request.headers.get("Authorization") is None:
                return request.reply(401, WWW_Authenticate='Basic realm="x"')
            return request.asks("/blobs/") and request.reply(status, Location=f"http://{storage.host}{request.path}")

        with run_bad_registry(BadRegistry(lead_away, image)) as registry:
            assert read_config(target(registry), access=http(auth_file(registry.host)))
    assert [seen.authorization for seen in registry.seen].count(None) == 1
    assert [seen.authorization for seen in storage.seen] == [None]


def test_a_storage_that_asks_for_credentials_gets_none(image, auth_file, pauses):
    storage = BadRegistry(lambda r: r.reply(401, WWW_Authenticate='Basic realm="give me"'), image)
    with run_bad_registry(storage):
        away = BadRegistry(lambda r: r.reply(307, Location=f"http://{storage.host}{r.path}"), image)
        with run_bad_registry(away) as registry, pytest.raises(RegistryError, match=f"{storage.host} answered 401"):
            read_config(target(registry), access=http(auth_file(registry.host)))
    assert [seen.authorization for seen in storage.seen] == [None]


def test_a_token_service_may_lead_elsewhere_but_not_with_the_password(image, auth_file):
    with run_bad_registry(BadRegistry(lambda _: False, image)) as other:

        def answer(request) -> bool:
            if request.asks("/token"):
                return request.reply(307, Location=f"http://{other.host}/token")
            if request.headers.get("Authorization") == "Bearer t":
                return False
            return request.reply(401, WWW_Authenticate=f'Bearer realm="http://{request.registry.host}/token"')

        with run_bad_registry(BadRegistry(answer, image)) as registry:
            assert read_config(target(registry), access=http(auth_file(registry.host)))
    assert [seen.authorization for seen in other.seen] == [None]


def test_what_is_written_is_not_redirected_to_another_host(image, pauses):
    with run_bad_registry(BadRegistry(lambda _: False, image)) as thief:
        lead = BadRegistry(
            lambda r: r.command == "POST" and r.reply(307, Location=f"http://{thief.host}{r.path}"), image
        )
        with run_bad_registry(lead) as registry, pytest.raises(RegistryError, match="answered 307"):
            push_layout(image, target(registry), access=http())
    assert thief.seen == []


def test_an_upload_that_is_sent_elsewhere_goes_without_credentials(image, auth_file):
    with run_bad_registry(BadRegistry(lambda _: False, image)) as storage:

        def answer(request) -> bool:
            if request.headers.get("Authorization") is None:
                return request.reply(401, WWW_Authenticate='Basic realm="x"')
            return request.command == "POST" and request.reply(202, Location=f"http://{storage.host}/upload")

        with run_bad_registry(BadRegistry(answer, image)) as registry:
            push_layout(image, target(registry), access=http(auth_file(registry.host)))
    assert storage.seen
    assert {seen.authorization for seen in storage.seen} == {None}


def test_an_upload_that_is_reset_is_tried_again_and_then_given_up(image, pauses):
    away = BadRegistry(lambda r: r.command == "PATCH" and r.reset(), image)
    with run_bad_registry(away) as registry, pytest.raises(RegistryError, match=r"the connection to .* failed"):
        push_layout(image, target(registry), access=http())
    assert len(pauses) == 4


def test_a_name_that_does_not_resolve_is_not_tried_again(monkeypatch, pauses):
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(RegistryError, match=r"the name registry\.invalid does not resolve"):
        exists(Reference("registry.invalid", "app", "1.0"))
    assert pauses == []


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", ()),
        ("Basic", (Challenge("basic"),)),
        ('Bearer realm="a\\"b",scope=c', (Challenge("bearer", {"realm": 'a"b', "scope": "c"}),)),
        (
            'BASIC realm="x", bearer REALM = "y" , service="z, Basic"',
            (Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y", "service": "z, Basic"})),
        ),
        ("Negotiate YWJj==, Basic realm=x", (Challenge("negotiate"), Challenge("basic", {"realm": "x"}))),
        ('Bearer realm="one",realm="two"', (Challenge("bearer", {"realm": "one"}),)),
        ('Bearer realm="without an end', (Challenge("bearer"),)),
        ("=x", ()),
        ("\x00\x01", ()),
    ],
)
def test_a_challenge_is_read(header, expected):
    assert parse_challenges(header, "reg.io") == expected


@pytest.mark.parametrize("piece", ['"', "a", "a ", "a=", '\\"', ", ", "a==", '="', "a=a,"])
def test_a_challenge_of_any_kind_is_read_in_one_pass(piece):
    assert isinstance(parse_challenges("Bearer " + piece * (8000 // len(piece)), "reg.io"), tuple)
