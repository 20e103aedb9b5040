"""Signatures without a key: of the right identity alone, offline against the recorded bundles of a private Sigstore.

`run_sigstore` of tests/support/private_sigstore.py made the samples, with the real Fulcio and Rekor.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from warmstart.core.errors import InputError, SignatureError, SigningError
from warmstart.core.reference import parse_reference
from warmstart.image.annotations import PREFIX, STATEMENTS
from warmstart.image.signatures import check, sigstore_package
from warmstart.image.signatures.attach import Attached
from warmstart.image.signatures.check import check_signatures
from warmstart.image.signatures.identity import CertificateIdentity, parse_identity
from warmstart.image.signatures.predicates import PROVENANCE, SBOM
from warmstart.image.signatures.statement import Envelope, parse_envelope

SAMPLES = Path(__file__).with_name("samples")
ROOT = SAMPLES / "trusted-root.json"
SIGNED, STATEMENT = (SAMPLES / f"{name}.sigstore.json" for name in ("signed", "provenance"))
DIGEST = "sha256:" + "0" * 64
WORKFLOW = "https://github.com/team/app/.github/workflows/build.yml@refs/heads/main"
ISSUER = "http://127.0.0.1:36467"
SIGNER = CertificateIdentity(WORKFLOW, ISSUER, ROOT)


def read(path: Path, **changes: str) -> Envelope:
    """Read a bundle, with fields of its envelope changed."""
    document = json.loads(path.read_text())
    document["dsseEnvelope"].update(changes)
    return parse_envelope(json.dumps(document).encode())


def read_changed() -> Envelope:
    """Read a statement that somebody changed after it was signed."""
    statement = json.loads(read(STATEMENT).payload)
    statement["predicate"] = {"changed": True}
    return read(STATEMENT, payload=base64.b64encode(json.dumps(statement).encode()).decode())


@pytest.mark.parametrize("path", [SIGNED, STATEMENT])
@pytest.mark.parametrize(
    "signer",
    [
        SIGNER,
        CertificateIdentity(re.compile("^https://github.com/team/"), ISSUER, ROOT),
        CertificateIdentity(WORKFLOW, re.compile(r"127\.0\.0\.1"), ROOT),
    ],
)
def test_the_identity_has_signed(path, signer):
    envelope = read(path)
    assert signer.find_fault(envelope) == ""
    assert signer.has_signed(envelope)
    assert signer.is_named_by(envelope)


@pytest.mark.parametrize(
    "signer",
    [
        CertificateIdentity("https://github.com/team/app", ISSUER, ROOT),
        CertificateIdentity(WORKFLOW, "https://token.actions.githubusercontent.com", ROOT),
        CertificateIdentity(re.compile("^https://github.com/other/"), ISSUER, ROOT),
        CertificateIdentity(WORKFLOW, re.compile("^https:"), ROOT),
    ],
)
def test_another_identity_or_issuer_has_not_signed(signer):
    envelope = read(SIGNED)
    assert WORKFLOW in signer.find_fault(envelope)
    assert not signer.is_named_by(envelope)


def test_a_changed_statement_names_the_identity_that_did_not_sign_it():
    assert "invalid signature" in SIGNER.find_fault(read_changed())
    assert SIGNER.is_named_by(read_changed())


def test_a_bundle_that_readers_understand_differently_is_not_signed():
    """The package also reads the names of fields as protocol buffers write them."""
    document = json.loads(SIGNED.read_text())
    other = json.loads(STATEMENT.read_text())["dsseEnvelope"]
    mixed = json.dumps({"dsse_envelope": document.pop("dsseEnvelope"), **document, "dsseEnvelope": other})
    assert not SIGNER.has_signed(parse_envelope(mixed.encode()))


@pytest.mark.parametrize("part", ["timestampVerificationData", "tlogEntries", "certificate"])
def test_each_proof_is_needed(part):
    document = json.loads(SIGNED.read_text())
    del document["verificationMaterial"][part]
    assert SIGNER.find_fault(parse_envelope(json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("part", "other"),
    [("tlogs", "ctlogs"), ("ctlogs", "tlogs"), ("timestampAuthorities", "certificateAuthorities")],
)
def test_each_key_of_the_trusted_root_is_needed(part, other, tmp_path):
    document, changed = json.loads(ROOT.read_text()), tmp_path / "root.json"
    changed.write_text(json.dumps({**document, part: document[other]}))
    assert SIGNER.has_signed(read(SIGNED))
    assert not CertificateIdentity(WORKFLOW, ISSUER, changed).has_signed(read(SIGNED))


def test_a_certificate_of_another_authority_is_not_trusted(tmp_path):
    document, changed = json.loads(ROOT.read_text()), tmp_path / "root.json"
    changed.write_text(json.dumps({**document, "certificateAuthorities": document["timestampAuthorities"]}))
    fault = CertificateIdentity(WORKFLOW, ISSUER, changed).find_fault(read(SIGNED))
    assert "certificate chain" in fault


def test_a_trusted_root_of_cosign_may_leave_names_of_authorities_out(tmp_path):
    document, root = json.loads(ROOT.read_text()), tmp_path / "root.json"
    for authority in (*document["certificateAuthorities"], *document["timestampAuthorities"]):
        del authority["subject"]["organization"]
    root.write_text(json.dumps(document))
    assert CertificateIdentity(WORKFLOW, ISSUER, root).has_signed(read(SIGNED))


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"mediaType": "application/json"}'])
def test_a_file_that_is_no_trusted_root_is_refused(tmp_path, text):
    root = tmp_path / "root.json"
    if text is not None:
        root.write_text(text)
    with pytest.raises(InputError, match=r"cannot use .*root\.json: ."):
        CertificateIdentity(WORKFLOW, ISSUER, root).has_signed(read(SIGNED))


def test_the_public_root_that_cannot_be_fetched_is_an_error(monkeypatch):
    def fail():
        raise OSError("no route to host")

    monkeypatch.setattr(sigstore_package.ClientTrustConfig, "production", fail)
    with pytest.raises(SigningError, match="cannot fetch the trusted root") as caught:
        CertificateIdentity(WORKFLOW, ISSUER).has_signed(read(SIGNED))
    assert "--trusted-root" in caught.value.hint


class TestImages:
    """An image in a registry with these bundles."""

    @pytest.fixture
    def verify(self, monkeypatch):
        def run(*envelopes: Envelope, statements: str = PROVENANCE, signer: CertificateIdentity = SIGNER):
            monkeypatch.setattr(check, "read_attached", lambda *_, **__: Attached(envelopes=envelopes))
            manifest = SimpleNamespace(digest=DIGEST, annotations={PREFIX + STATEMENTS: statements})
            return check_signatures(parse_reference("registry.example.com/team/app:1"), manifest, [signer])

        return run

    def test_it_is_accepted(self, verify):
        checked = verify(read(SIGNED), read(STATEMENT))
        assert checked.signers == (SIGNER,)
        assert [one.type for one in checked.statements] == [PROVENANCE]

    def test_of_another_identity_it_is_refused_and_the_real_one_is_shown(self, verify):
        other = CertificateIdentity("https://github.com/other", ISSUER, ROOT)
        with pytest.raises(SignatureError, match="no trusted key or identity signed") as caught:
            verify(read(SIGNED), read(STATEMENT), signer=other)
        assert any(WORKFLOW in line for line in caught.value.details)

    def test_a_statement_alone_is_no_signature(self, verify):
        with pytest.raises(SignatureError, match="no trusted key or identity signed"):
            verify(read(STATEMENT))

    def test_a_changed_statement_is_refused(self, verify):
        with pytest.raises(SignatureError, match="was changed") as caught:
            verify(read(SIGNED), read_changed())
        assert WORKFLOW in caught.value.brief

    @pytest.mark.parametrize("statements", [PROVENANCE, f"{PROVENANCE} {SBOM}"])
    def test_a_removed_statement_is_refused(self, verify, statements):
        attached = [read(SIGNED)] if statements == PROVENANCE else [read(SIGNED), read(STATEMENT)]
        with pytest.raises(SignatureError, match="is missing"):
            verify(*attached, statements=statements)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((None, None, None, None), None),
        (("", None, "", None), None),
        (("a@example.com", None, ISSUER, None), CertificateIdentity("a@example.com", ISSUER, ROOT)),
        ((None, "a.*", None, "b.*"), CertificateIdentity(re.compile("a.*"), re.compile("b.*"), ROOT)),
    ],
)
def test_options_describe_an_identity(options, expected):
    assert parse_identity(*options, ROOT) == expected


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("a", None, None, None), "belong together"),
        ((None, None, None, "b"), "belong together"),
        (("a", "a", "b", None), "exclude each other"),
        (("a", None, "b", "b"), "exclude each other"),
        (("a", None, None, "("), "--certificate-oidc-issuer-regexp"),
    ],
)
def test_options_that_describe_no_identity_are_refused(options, error):
    with pytest.raises(InputError, match=error):
        parse_identity(*options, ROOT)


def test_an_identity_shows_its_patterns():
    assert SIGNER.source == f"{WORKFLOW} of {ISSUER}"
    assert CertificateIdentity(re.compile("a"), re.compile("b")).source == "/a/ of /b/"
