"""What rules find, and what only looks like a secret: documentation, code, templates and samples."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest
from support.planted import make_jwt, make_pem, make_rsa_key, make_token

from warmstart.image.secrets.rules import RULES
from warmstart.image.secrets.scan import Scanner

SCANNER = Scanner()
TOKEN = secrets.token_urlsafe


def find(text: str | bytes) -> list[str]:
    content = text.encode() if isinstance(text, str) else text
    return [hit.kind for hit in SCANNER.scan(content, 0, len(content))]


def mixed(length: int, alphabet: str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


SECRETS = [
    ("github-token", make_token()),
    ("npm-token", make_token("npm_")),
    ("jwt", make_jwt()),
    ("private-key", make_pem(make_rsa_key())),
    ("private-key", json.dumps({"key": make_pem(make_rsa_key(), "PRIVATE KEY")})),
    ("private-key", make_rsa_key()),
    ("connection-url", "redis://:hunter22@cache:6379/0"),
    ("connection-url", "postgres://user:p%40ss@db/x"),
    ("connection-url", "postgres://user:AbkQe_fGhiJkl@db/x"),
    ("connection-url", "https://x:ghx-0815@[::1]/a.git"),
    ("connection-string", "jdbc:postgresql://db/shop?user=shop&password=hunter22"),
    ("connection-string", "host=db port=5432 user=shop password=hunter22 dbname=shop"),
    ("connection-string", "Server=db;Database=x;User Id=sa;Password=hunter22;"),
    ("basic-authorization", f"Authorization: Basic {base64.b64encode(b'shop:hunter22').decode()}"),
    ("aws-access-key", f"AKIA{mixed(16)}"),
    ("aws-secret-key", f'"SecretAccessKey" : "{mixed(40, LETTERS)}"'),
    ("azure-account-key", f"AccountName=a;AccountKey={mixed(86, LETTERS)}=="),
    ("google-api-key", f"AIza{mixed(35, LETTERS)}"),
    ("gitlab-token", f"glpat-{mixed(20, LETTERS)}"),
    ("slack-token", f"xoxb-123456789012-{mixed(24, LETTERS)}"),
    ("stripe-key", f"sk_live_{mixed(24, LETTERS)}"),
    ("sendgrid-key", f"SG.{mixed(22, LETTERS)}.{mixed(43, LETTERS)}"),
    ("huggingface-token", f"hf_{mixed(17, LETTERS[:26])}{mixed(17, LETTERS[26:52])}"),
    ("vault-token", f"hvs.{mixed(95, LETTERS)}"),
]


# The secrets are others each time, and names of tests must not be.
@pytest.mark.parametrize(("kind", "text"), SECRETS, ids=range(len(SECRETS)))
def test_a_secret_is_found(kind, text):
    assert find(text) == [kind]
    content = text if isinstance(text, bytes) else text.encode()
    assert find(b"\xff\0" + content + b"\0\xff") == [kind]


NO_SECRETS = [
    "ghp_" + "a1" * 18,  # without its checksum
    make_token() + "x",
    "x" + make_token(),
    "AKIAIOSFODNN7EXAMPLEX",
    "AKIA" + "A" * 16,
    "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.",
    "eyJhbGciOi.eyJzdWIiOi.signaturesignature",
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PUBLIC KEY-----\n" + "MIIB" * 30,
    b"\x30\x82\x04\xa4\x02\x01\x00\x02\x82\x01\x01\x00" + bytes(256) + b"\x02\x03\x01\x00\x01\x02",
    "http://user:password@host/",
    "http://user:pass@host/",
    "https://{user}:{password}@{host}",
    "redis://:$REDIS_PASSWORD@cache",
    "proxy://user:<password>@host",
    "ftp://%s:%s@host",
    "http://[::1]:8080/a@b",
    "jdbc:postgresql://db/shop?user=shop&password=${DB_PASSWORD}",
    "user = User(username='scolvin', password=SecretStr('hunter22'))",
    "connect(host=host, user=user, password=password, database=database)",
    "connect(user=self.user, password=self.password)",
    "connect(user=user, password=db_pass, port=5432)",
    "(host, port, user=None, password=None,",
    "password=hunter22",  # of nothing that it opens
    "AccountKey=" + "A" * 86 + "==",
    f"Authorization: Basic {base64.b64encode(b'user:password').decode()}",
    "x-dapi" + "0" * 32,
    "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",  # two names, one over the rest of the other, in freed memory
]


@pytest.mark.parametrize("text", NO_SECRETS, ids=range(len(NO_SECRETS)))
def test_what_only_looks_like_a_secret_is_not_found(text):
    assert find(text) == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_keys_in_openssl_itself_are_no_secrets():
    program = Path(shutil.which("openssl")).read_bytes()
    rule = next(one for one in RULES if one.title == "RSA private key (DER)")
    assert len(list(rule.pattern.finditer(program))) == 3
    assert find(program) == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize(
    "options",
    [
        ["RSA"],
        ["RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
        ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        ["ED25519"],
    ],
    ids=["rsa-2048", "rsa-3072", "p-256", "p-384", "ed25519"],
)
def test_keys_of_openssl_are_found(options):
    def run(*words: str, key: bytes | None = None) -> bytes:
        return subprocess.run(["openssl", *words], input=key, capture_output=True, check=True).stdout

    pem = run("genpkey", "-algorithm", *options)
    assert find(pem) == ["private-key"]
    packed = run("pkcs8", "-topk8", "-nocrypt", "-outform", "DER", key=pem)
    assert find(bytes(100) + packed + bytes(900)) == ["private-key"]
    if options[0] != "ED25519":
        assert find(bytes(100) + run("pkey", "-traditional", "-outform", "DER", key=pem) + bytes(900)) == [
            "private-key"
        ]
