"""A private deployment of Sigstore: the real Fulcio, Rekor and timestamp authority, on the loopback interface.

The OIDC issuer and the certificate transparency log are small servers of the tests: the former gives tokens as GitHub
Actions does, the latter signs the promise to log a certificate, and logs nothing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from support.go_tools import GoTool, ensure_go_tool

from warmstart.node.cache import Notify

# Of three modules, which share most of their dependencies.
SIGSTORE = GoTool(
    "fulcio",
    "github.com/sigstore/fulcio",
    "v1.8.8",
    companions=(
        ("rekor", "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix@v2.3.0"),
        ("timestamps", "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server@v2.1.3"),
    ),
)
# The paths must be without spaces.
COMMANDS = {
    "fulcio": """
        serve --ca=fileca --fileca-cert={directory}/fulcio.crt --fileca-key={directory}/fulcio.key
        --fileca-key-passwd={password} --fileca-watch=false --config-path={directory}/fulcio.yaml --ct-log-url={issuer}
        --host=127.0.0.1 --port={ports[0]} --grpc-host=127.0.0.1 --grpc-port={ports[1]} --metrics-port={ports[2]}
        --legacy-unix-domain-socket={directory}/fulcio.sock
        """,
    "rekor": """
        serve --storage-dir={directory}/rekor --signer-filepath={directory}/rekor.key --hostname={log}
        --http-port={ports[3]} --grpc-port={ports[4]} --http-metrics-port={ports[5]}
        --checkpoint-interval=1s --batch-max-age=100ms
        """,
    "timestamps": "serve --host=127.0.0.1 --port={ports[6]} --timestamp-signer=memory --disable-ntp-monitoring",
}

LIMIT_S = 60
PASSWORD = "pw"
LOG_NAME = "rekor.test"
SINCE = {"start": "2020-01-01T00:00:00Z"}
WORKFLOW = "team/app/.github/workflows/build.yml@refs/heads/main"
IDENTITY = f"https://github.com/{WORKFLOW}"
# What Fulcio wants from a token of GitHub Actions.
CLAIMS = {
    "sub": "repo:team/app:ref:refs/heads/main",
    "job_workflow_ref": WORKFLOW,
    "workflow_ref": WORKFLOW,
    "repository": "team/app",
    "repository_owner": "team",
    "ref": "refs/heads/main",
    "workflow": "build",
    "event_name": "push",
    "runner_environment": "github-hosted",
    "repository_visibility": "public",
    **dict.fromkeys(("sha", "job_workflow_sha", "workflow_sha"), "a" * 40),
    **dict.fromkeys(("repository_id", "repository_owner_id", "run_id", "run_attempt"), "1"),
}

# In YAML: Fulcio takes JSON for its old configuration, which has other names.
FULCIO_CONFIG = """\
oidc-issuers:
  {issuer}:
    issuer-url: {issuer}
    client-id: sigstore
    type: github-workflow
"""


@dataclass(frozen=True)
class PrivateSigstore:
    """A running deployment.

    Attributes:
        issuer: URL of the OIDC issuer.
        signing_config: file with the addresses of the services.
        trusted_root: file with their keys.
    """

    issuer: str
    signing_config: Path
    trusted_root: Path
    _key: ec.EllipticCurvePrivateKey

    def token(self, *, age_s: int = 0, **claims: str) -> str:
        """Return a token for a workflow of GitHub Actions, which lasts for ten minutes from its issue on."""
        issued = int(time.time()) - age_s
        times = {"iat": issued, "nbf": issued, "exp": issued + 600}
        document = {**CLAIMS, "iss": self.issuer, "aud": "sigstore", **times, **claims}
        return jwt.encode(document, self._key, algorithm="ES256", headers={"kid": "1"})

    def ambient(self) -> dict[str, str]:
        """Return the variables of a job of GitHub Actions that may ask for tokens."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.issuer}/token?version=1",
        }


@contextlib.contextmanager
def run_sigstore(cache: Path, directory: Path, progress: Notify) -> Iterator[PrivateSigstore]:
    """Run a deployment, with its state in a directory; compile the programs if they are not in the cache."""
    programs = ensure_go_tool(cache, SIGSTORE, progress).parent
    key, log_key, rekor_key, authority_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
    authority, ports = _make_authority(authority_key), [_find_port() for _ in range(7)]
    fulcio, rekor, timestamps = (f"http://127.0.0.1:{ports[number]}" for number in (0, 3, 6))
    with contextlib.ExitStack() as running:
        issuer = running.enter_context(_serve(key, log_key))
        _write_key(directory / "rekor.key", rekor_key, NoEncryption())
        _write_key(directory / "fulcio.key", authority_key, BestAvailableEncryption(PASSWORD.encode()))
        (directory / "fulcio.crt").write_bytes(authority.public_bytes(Encoding.PEM))
        (directory / "fulcio.yaml").write_text(FULCIO_CONFIG.format(issuer=issuer))
        values = {"directory": directory, "issuer": issuer, "log": LOG_NAME, "password": PASSWORD, "ports": ports}
        for name, words in COMMANDS.items():
            command = [str(programs / name), *words.format(**values).split()]
            running.enter_context(_run(command, directory / f"{name}.log"))
        for url in (fulcio, rekor):
            _fetch(f"{url}/healthz")
        stamping = x509.load_pem_x509_certificates(_fetch(f"{timestamps}/api/v1/timestamp/certchain"))
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_describe_log(f"https://{LOG_NAME}", rekor_key)],
            "ctlogs": [_describe_log(issuer, log_key)],
            "certificateAuthorities": [_describe_authority(fulcio, [authority])],
            "timestampAuthorities": [_describe_authority(timestamps, stamping)],
        }
        (directory / "trusted-root.json").write_text(json.dumps(root))
        (directory / "signing-config.json").write_text(json.dumps(make_config(fulcio, rekor, timestamps)))
        files = directory / "signing-config.json", directory / "trusted-root.json"
        yield PrivateSigstore(issuer, *files, key)


def make_config(fulcio: str, rekor: str, timestamps: str) -> dict[str, Any]:
    """Return the signing configuration of a deployment with these URLs."""

    def list_service(url: str, version: int) -> list[dict[str, Any]]:
        return [{"url": url, "majorApiVersion": version, "validFor": SINCE, "operator": "tests"}]

    return {
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "caUrls": list_service(fulcio, 1),
        "rekorTlogUrls": list_service(rekor, 2),
        "rekorTlogConfig": {"selector": "ANY"},
        "tsaUrls": list_service(f"{timestamps}/api/v1/timestamp", 1),
        "tsaConfig": {"selector": "ANY"},
    }


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey, lock: KeySerializationEncryption) -> None:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))


def _make_authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")]), datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, SHA256())
    )


def _describe_log(url: str, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": _encode(der), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": SINCE},
        "logId": {"keyId": _encode(hashlib.sha256(der).digest())},
    }


def _describe_authority(url: str, chain: list[x509.Certificate]) -> dict[str, Any]:
    return {
        "subject": {"organization": "tests", "commonName": "tests"},
        "uri": url,
        "certChain": {"certificates": [{"rawBytes": _encode(one.public_bytes(Encoding.DER))} for one in chain]},
        "validFor": SINCE,
    }


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _run(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.kill()


def _fetch(url: str) -> bytes:
    """Return what a service answers, once it does."""
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            with urlopen(url, timeout=LIMIT_S) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def _serve(key: ec.EllipticCurvePrivateKey, log_key: ec.EllipticCurvePrivateKey) -> Iterator[str]:
    """Serve the OIDC issuer and the certificate transparency log; yield their URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer = f"http://127.0.0.1:{self.server.server_address[1]}"
            if self.path == "/.well-known/openid-configuration":
                endpoints = {f"{name}_endpoint": f"{issuer}/{name}" for name in ("authorization", "token")}
                algorithms = {"id_token_signing_alg_values_supported": ["ES256"]}
                self.answer({"issuer": issuer, "jwks_uri": f"{issuer}/keys", **endpoints, **algorithms})
            elif self.path == "/keys":
                public = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
                self.answer({"keys": [{**public, "kid": "1", "use": "sig", "alg": "ES256"}]})
            elif self.path.startswith("/token") and "audience=sigstore" in self.path:
                self.answer({"value": PrivateSigstore(issuer, Path(), Path(), key).token()})
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            chain = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["chain"]
            self.answer(
                _promise(*(x509.load_der_x509_certificate(base64.b64decode(one)) for one in chain[:2]), log_key)
            )

        def answer(self, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _promise(
    precertificate: x509.Certificate, issuer: x509.Certificate, log_key: ec.EllipticCurvePrivateKey
) -> dict[str, Any]:
    """Return a signed certificate timestamp (RFC 6962, sections 3.2 and 4.2)."""
    issuer_der = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    log_der = log_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate, milliseconds = _remove_poison(precertificate), int(time.time() * 1000)
    entry = hashlib.sha256(issuer_der).digest() + len(certificate).to_bytes(3, "big") + certificate
    signature = log_key.sign(struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + bytes(2), ec.ECDSA(SHA256()))
    return {
        "sct_version": 0,
        "id": _encode(hashlib.sha256(log_der).digest()),
        "timestamp": milliseconds,
        "extensions": "",
        # SHA-256, ECDSA.
        "signature": _encode(struct.pack("!BBH", 4, 3, len(signature)) + signature),
    }


def _remove_poison(precertificate: x509.Certificate) -> bytes:
    """Return the part of the final certificate that the log signs, encoded anew: only the poison is missing."""
    builder = x509.CertificateBuilder(
        precertificate.issuer,
        precertificate.subject,
        precertificate.public_key(),
        precertificate.serial_number,
        precertificate.not_valid_before_utc,
        precertificate.not_valid_after_utc,
        [one for one in precertificate.extensions if not isinstance(one.value, x509.PrecertPoison)],
    )
    algorithm = precertificate.signature_hash_algorithm
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), algorithm).tbs_certificate_bytes
