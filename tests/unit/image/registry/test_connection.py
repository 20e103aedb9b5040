"""Authentication, certificates, retries and errors, against real registries and a proxy that spoils."""

import base64
import json
import socket
import subprocess
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from tests.support.registry_access import http
from warmstart.core.errors import RegistryError
from warmstart.core.reference import Reference, parse_reference
from warmstart.image.registry.client import exists, push_layout, read_config, read_manifest
from warmstart.image.registry.connection import Answer, Connection
from warmstart.image.registry.credentials import RegistryAccess

from ..conftest import serve

USER, PASSWORD = "builder", "correct horse"
# bcrypt of PASSWORD
HASH = "$2b$04$t9ytzW2nXpsGg4lTHcf2F.OYMh5/6HQnlzHbKwuz5/kse3bYBulD."


@pytest.fixture
def image(layout):
    layout.list(layout.image(b"one" * 1000, uuid4().bytes))
    return layout.path


@pytest.fixture
def target(proxy) -> Reference:
    return Reference(proxy.host, f"team/{uuid4().hex}", "1.0")


def write_auth(tmp_path: Path, key: str, user: str = USER, password: str = PASSWORD, **more: str) -> Path:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path = tmp_path / f"{uuid4().hex}.json"
    path.write_text(json.dumps({"auths": {key: {"auth": auth, **more}}}))
    return path


# Basic authentication


@pytest.fixture(scope="module")
def private_registry(start_registry, tmp_path_factory) -> str:
    passwords = tmp_path_factory.mktemp("passwords") / "htpasswd"
    passwords.write_text(f"{USER}:{HASH}\n")
    return start_registry(auth={"htpasswd": {"realm": "tests", "path": str(passwords)}})


def test_a_password_opens_the_registry(image, private_registry, tmp_path):
    target = Reference(private_registry, "app", "1.0")
    auth_file = write_auth(tmp_path, private_registry)
    digest = push_layout(image, target, access=http(auth_file))
    assert read_manifest(target, access=http(auth_file)).digest == digest


def test_a_refusal_tells_where_credentials_were_looked_for(image, private_registry, tmp_path, monkeypatch):
    target = Reference(private_registry, "app", "1.0")
    with pytest.raises(RegistryError, match="answered 401 Unauthorized; sent without credentials") as caught:
        push_layout(image, target, access=http())
    assert caught.value.details[0] == "looked for credentials in:"
    assert any(line.endswith(".docker/config.json: does not exist") for line in caught.value.details)
    assert f"docker login {private_registry}" in caught.value.hint


def test_a_wrong_password_is_told_from_a_missing_one(image, private_registry, tmp_path):
    auth_file = write_auth(tmp_path, private_registry, password="pa55word")
    with pytest.raises(RegistryError, match="answered 401 Unauthorized; sent as builder") as caught:
        push_layout(image, Reference(private_registry, "app", "1.0"), access=http(auth_file))
    assert "pa55word" not in str(caught.value) + " ".join(caught.value.details)


def test_the_registrys_own_error_is_shown(private_registry):
    with pytest.raises(RegistryError, match=r"\(UNAUTHORIZED: authentication required\)"):
        read_manifest(Reference(private_registry, "app", "1.0"), access=http())


def test_netrc_does_not_take_the_place_of_credentials(image, private_registry, tmp_path):
    netrc = Path.home() / ".netrc"
    netrc.write_text("machine 127.0.0.1 login other password wrong\n")
    netrc.chmod(0o600)
    auth_file = write_auth(tmp_path, private_registry)
    assert push_layout(image, Reference(private_registry, "netrc", "1.0"), access=http(auth_file))


def test_who_may_not_is_not_asked_again(image, target, proxy, pauses):
    body = b'{"errors": [{"code": "DENIED", "message": "requested access is denied"}]}'
    proxy.answer("HEAD", 404)
    proxy.answer("POST", 403, body=body, times=9)
    with pytest.raises(RegistryError, match=r"answered 403 .*DENIED: requested access is denied.*; sent without"):
        push_layout(image, target, access=http())
    assert len([line for line in proxy.seen if line.startswith("POST")]) == 1
    assert pauses == []


# Tokens


class TokenService:
    """Gives tokens, as a registry's token service does: JWTs signed with a key whose certificate it trusts."""

    def __init__(self, home: Path) -> None:
        self.key, self.certificate = make_certificate(home)
        self.asked: list[tuple[str, str]] = []  # who, REPOSITORY:ACTIONS
        self.realm = ""
        self.status = 200

    def grant(self, who: str, scopes: list[str]) -> str:
        """Everybody may pull from public/…, the reader may pull from everywhere, the builder may do everything."""
        asked = [scope.split(":") for scope in scopes]
        self.asked += [(who, f"{name}:{','.join(sorted(actions.split(',')))}") for _, name, actions in asked]
        access = []
        for kind, name, actions in asked:
            may = {"": "pull" if name.startswith("public/") else "", "reader": "pull"}.get(who, "pull,push")
            allowed = [action for action in actions.split(",") if action in may.split(",")]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {"iss": "tests", "sub": who, "aud": "registry", "jti": uuid4().hex, "access": access}
        times = {"nbf": now - 10, "iat": now, "exp": now + 300}
        certificate = "".join(self.certificate.read_text().splitlines()[1:-1])
        signed = f"{encode({'typ': 'JWT', 'alg': 'RS256', 'x5c': [certificate]})}.{encode({**claims, **times})}"
        command = ["openssl", "dgst", "-sha256", "-sign", self.key]
        signature = subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout
        return f"{signed}.{encode(signature)}"

    def make_handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                who = ""
                if authorization := self.headers.get("Authorization"):
                    who, _, password = base64.b64decode(authorization.split()[1]).decode().partition(":")
                    if password != PASSWORD:
                        return self.answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "bad password"}]})
                query = parse_qs(urlsplit(self.path).query)
                return self.answer(service.status, {"token": service.grant(who, query["scope"])})

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                if form["grant_type"] != ["refresh_token"] or form["refresh_token"] != ["identity"]:
                    return self.answer(400, {"error": "invalid_grant"})
                scopes = form["scope"][0].split()
                return self.answer(service.status, {"access_token": service.grant(USER, scopes)})

            def answer(self, status: int, document: dict) -> None:
                body = json.dumps(document).encode()
                self.send_response_only(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def encode(part: object) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def make_certificate(home: Path) -> tuple[Path, Path]:
    key, certificate = home / "key.pem", home / "certificate.pem"
    subject = ["-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return key, certificate


@pytest.fixture(scope="module")
def running_tokens(start_registry, tmp_path_factory):
    service = TokenService(tmp_path_factory.mktemp("tokens"))
    with serve(service.make_handler()) as host:
        service.realm = f"http://{host}/token"
        settings = {"realm": service.realm, "service": "registry", "issuer": "tests"}
        yield start_registry(auth={"token": {**settings, "rootcertbundle": str(service.certificate)}}), service


@pytest.fixture
def token_registry(running_tokens) -> str:
    return running_tokens[0]


@pytest.fixture
def tokens(running_tokens) -> TokenService:
    service = running_tokens[1]
    service.asked.clear()
    service.status = 200
    return service


def test_a_token_is_got_for_what_the_registry_asks(image, token_registry, tokens, tmp_path):
    target = Reference(token_registry, f"team/{uuid4().hex}", "1.0")
    auth_file = write_auth(tmp_path, token_registry)
    digest = push_layout(image, target, access=http(auth_file))
    assert tokens.asked == [(USER, f"{target.repository}:pull"), (USER, f"{target.repository}:pull,push")]
    assert read_manifest(target, access=http(auth_file)).digest == digest


def test_a_token_may_be_anonymous(token_registry, tokens):
    assert not exists(Reference(token_registry, "public/app", "1.0"), access=http())
    assert tokens.asked == [("", "public/app:pull")]


def test_a_token_that_does_not_allow_it_is_a_refusal(image, token_registry, tokens, tmp_path):
    auth_file = write_auth(tmp_path, token_registry, user="reader")
    with pytest.raises(RegistryError, match=r"could not push .* answered 401 .*UNAUTHORIZED.*; sent as reader"):
        push_layout(image, Reference(token_registry, "team/app", "1.0"), access=http(auth_file))


def test_the_token_services_refusal_is_shown(token_registry, tokens, tmp_path):
    auth_file = write_auth(tmp_path, token_registry, password="wrong")
    with pytest.raises(RegistryError, match=r"answered 401 .*bad password.*; sent as builder"):
        exists(Reference(token_registry, "team/app", "1.0"), access=http(auth_file))


def test_an_identity_token_is_exchanged(image, token_registry, tokens, tmp_path):
    auth_file = write_auth(tmp_path, token_registry, password="", identitytoken="identity")
    target = Reference(token_registry, f"team/{uuid4().hex}", "1.0")
    assert push_layout(image, target, access=http(auth_file))
    assert tokens.asked[0] == (USER, f"{target.repository}:pull")


def test_a_token_that_expires_in_the_midst_is_renewed_and_the_layer_sent_again(
    image, target, proxy, tokens, tmp_path, pauses
):
    scope = f"repository:{target.repository}:pull,push"
    challenge = f'Bearer realm="{tokens.realm}",service="registry",scope="{scope}",error="invalid_token"'
    proxy.answer("PATCH", 401, {"WWW-Authenticate": challenge})
    auth_file = write_auth(tmp_path, target.registry)
    digest = push_layout(image, target, access=http(auth_file))
    assert read_manifest(target, access=http()).digest == digest
    assert tokens.asked == [(USER, f"{target.repository}:pull,push")]
    assert pauses == []


def test_a_mount_is_asked_for_with_both_repositories(image, token_registry, tokens, tmp_path):
    auth_file = write_auth(tmp_path, token_registry)
    base = Reference(token_registry, f"base/{uuid4().hex}", "1.0")
    push_layout(image, base, access=http(auth_file))
    tokens.asked.clear()
    target = Reference(token_registry, f"team/{uuid4().hex}", "1.0")
    push_layout(image, target, mount_from=base, access=http(auth_file))
    assert (USER, f"{base.repository}:pull") in tokens.asked
    assert exists(target, access=http(auth_file))


def test_a_token_service_that_fails_in_passing_is_asked_again(token_registry, tokens, pauses):
    tokens.status = 503
    with pytest.raises(RegistryError, match="answered 503 to a request for a token"):
        exists(Reference(token_registry, "public/app", "1.0"), access=http())
    assert len(tokens.asked) == len(pauses) + 1 == 5


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"token": null}'])
def test_a_token_service_that_talks_nonsense_is_told_of(target, proxy, body):
    realm = f'Bearer realm="http://{proxy.host}/token",service="x",scope="a:b:pull"'
    proxy.answer("HEAD", 401, {"WWW-Authenticate": realm})
    proxy.answer("GET /token", 200, body=body)
    with pytest.raises(RegistryError, match="sent no token: the answer is not a token document"):
        exists(target, access=http())


def test_credentials_do_not_follow_an_upload_to_another_host(image, target, proxy, tmp_path):
    proxy.answer("HEAD", 401, {"WWW-Authenticate": 'Basic realm="x"'})
    seen: list[str | None] = []
    with serve(make_thief(seen)) as elsewhere:
        proxy.answer("POST", 202, {"Location": f"http://{elsewhere}/upload"})
        with pytest.raises(RegistryError, match=f"{elsewhere} answered 401"):
            push_layout(image, target, access=http(write_auth(tmp_path, proxy.host)))
    assert seen == [None]


def make_thief(seen: list[str | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.headers.get("Authorization"))
            self.send_response_only(401)
            self.send_header("WWW-Authenticate", 'Basic realm="give me"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


# Certificates


@pytest.fixture(scope="module")
def tls_registry(start_registry, tmp_path_factory) -> tuple[str, Path]:
    key, certificate = make_certificate(tmp_path_factory.mktemp("tls"))
    return start_registry(http={"tls": {"certificate": str(certificate), "key": str(key)}}), certificate


def test_a_certificate_nobody_vouches_for_is_refused_at_once(image, tls_registry, pauses):
    with pytest.raises(RegistryError, match=r"certificate of .* is not trusted: self-signed certificate") as caught:
        push_layout(image, Reference(tls_registry[0], "app", "1.0"))
    assert "SSL_CERT_FILE" in caught.value.hint
    assert pauses == []


def test_a_certificate_of_this_machines_store_is_trusted(image, tls_registry, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_registry[1]))
    target = Reference(tls_registry[0], "app", "1.0")
    assert push_layout(image, target) == read_manifest(target).digest


def test_a_registry_without_https_is_told_of(registry, pauses):
    with pytest.raises(RegistryError, match=f"{registry} does not speak HTTPS") as caught:
        exists(Reference(registry, "app", "1.0"))
    assert f"--plain-http {registry}" in caught.value.hint
    assert pauses == []


def test_plain_http_to_a_registry_with_https_is_told_of(tls_registry):
    with pytest.raises(RegistryError, match=r"answered 400 .*HTTP request to an HTTPS server") as caught:
        read_manifest(Reference(tls_registry[0], "app", "1.0"), access=http())
    assert "remove --plain-http" in caught.value.hint


# Addresses


def connect(name: str, **options) -> Connection:
    return Connection(parse_reference(name), RegistryAccess(**options))


def test_docker_hub_is_spoken_to_by_the_name_of_its_registry():
    url = connect("alpine").url("manifests/latest")
    assert url == "https://registry-1.docker.io/v2/library/alpine/manifests/latest"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/v2/app/uploads/1?state=a%3D", "https://reg.io/v2/app/uploads/1?state=a%3D"),
        ("https://other.io/1", "https://other.io/1"),
    ],
)
def test_an_upload_goes_where_the_registry_says(location, expected):
    answer = Answer(202, "", "https://reg.io/v2/app/blobs/uploads/", {"Location": location}, b"")
    assert connect("reg.io/app").follow(answer) == expected


def test_an_upload_does_not_go_from_https_to_http():
    answer = Answer(202, "", "https://reg.io/v2/app/blobs/uploads/", {"Location": "http://reg.io/1?secret"}, b"")
    with pytest.raises(RegistryError, match=r"redirects the upload from HTTPS to http://reg.io/1$") as caught:
        connect("reg.io/app").follow(answer)
    assert "X-Forwarded-Proto" in caught.value.hint


# Failures


@pytest.mark.parametrize(
    "pattern", ["HEAD .*blobs", "POST", "PATCH", "PUT .*uploads", "PUT .*manifests/sha", r"PUT .*manifests/1\.0"]
)
@pytest.mark.parametrize("harm", ["reset", 500, 503, 429])
def test_a_passing_failure_at_any_step_is_overcome(image, target, proxy, pauses, pattern, harm):
    if harm == "reset":
        proxy.hang_up(pattern, times=2)
    else:
        proxy.answer(pattern, harm, times=2)
    digest = push_layout(image, target, access=http())
    assert read_manifest(target, access=http()).digest == digest
    assert read_config(target, access=http())
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize(
    "pattern", ["HEAD .*blobs", "PATCH", "PUT .*uploads", "PUT .*manifests/sha", r"PUT .*manifests/1\.0"]
)
def test_a_failure_that_stays_ends_the_push_and_leaves_no_tag(image, target, proxy, pauses, pattern):
    proxy.answer(pattern, 502, body=b"<h1>Bad gateway</h1>\nmore", times=99)
    with pytest.raises(RegistryError, match="answered 502 Bad Gateway"):
        push_layout(image, target, access=http())
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    proxy.faults.clear()
    assert not exists(target, access=http())


def test_a_blob_whose_upload_was_done_before_the_connection_broke_is_not_sent_again(image, target, proxy, pauses):
    proxy.edit("PUT .*uploads", lambda answer: None)
    push_layout(image, target, access=http())
    assert len([line for line in proxy.seen if line.startswith("PATCH")]) == 3
    assert pauses == [0.5]


def test_a_failure_for_good_is_not_repeated(image, target, proxy, pauses):
    proxy.answer("PATCH", 413, times=99)
    with pytest.raises(RegistryError, match="answered 413") as caught:
        push_layout(image, target, access=http())
    assert "client_max_body_size" in caught.value.hint
    assert pauses == []


def test_an_upload_that_is_broken_off_hints_at_its_size(image, target, proxy, pauses):
    proxy.hang_up("PATCH", times=99)
    with pytest.raises(RegistryError, match=r"the connection to .* failed") as caught:
        push_layout(image, target, access=http())
    assert "limits the upload size" in caught.value.hint


def test_a_registry_that_never_answers_is_not_waited_for(pauses, monkeypatch):
    monkeypatch.setattr("warmstart.image.registry.transport.ANSWER_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RegistryError, match=f"{host} did not answer in time"):
            exists(Reference(host, "app", "1.0"), access=http())
    assert len(pauses) == 4


def test_a_pause_that_is_asked_for_is_made(target, proxy, pauses):
    proxy.answer("HEAD", 429, {"Retry-After": "7"})
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    proxy.answer("HEAD", 503, {"Retry-After": date})
    proxy.answer("HEAD", 503, {"Retry-After": "soon"})
    assert not exists(target, access=http())
    assert pauses[0] == 7.0
    assert 20 < pauses[1] <= 30
    assert pauses[2] == 2.0


def test_a_pause_that_is_too_long_is_not_made(target, proxy, pauses):
    proxy.answer("HEAD", 429, {"Retry-After": "3600"})
    with pytest.raises(RegistryError, match="answered 429") as caught:
        exists(target, access=http())
    assert "try again later" in caught.value.hint
    assert pauses == []


def test_a_registry_that_is_not_there_is_told_of(pauses):
    with pytest.raises(RegistryError, match=r"the connection to 127.0.0.1:1 failed: Connection refused"):
        exists(Reference("127.0.0.1:1", "app", "1.0"), access=http())
    assert len(pauses) == 4


@pytest.mark.parametrize("location", [None, "ftp://example.com/x", "http://[bad/x", "http://127.0.0.1:99999/x"])
def test_an_upload_that_leads_nowhere_is_told_of(image, target, proxy, location):
    proxy.answer("POST", 202, {"Location": location} if location else {}, times=9)
    with pytest.raises(RegistryError):
        push_layout(image, target, access=http())


def test_an_endless_error_text_is_cut(target, proxy):
    proxy.answer("GET", 400, body=b"x" * (3 << 20))
    with pytest.raises(RegistryError, match=r"answered 400 .*\(x{300}\)"):
        read_manifest(target, access=http())


def test_an_error_text_cannot_write_to_the_terminal(target, proxy):
    body = json.dumps({"errors": [{"code": "X", "message": "\x1b[31mred\nnext"}, {"code": "Y"}]}).encode()
    proxy.answer("GET", 400, body=body)
    with pytest.raises(RegistryError) as caught:
        read_manifest(target, access=http())
    assert caught.value.brief.endswith("(X:  [31mred next; Y)")
