"""Signatures and statements in a real registry: written, found by the right key alone, and refused once changed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from uuid import uuid4

import pytest
from support.registry_access import http
from support.signing_keys import make_key

from warmstart.core.errors import SignatureError
from warmstart.core.reference import Reference, Source, Transport
from warmstart.image.annotations import PREFIX, STATEMENTS
from warmstart.image.manifest import Manifest
from warmstart.image.registry.client import (
    TaggedLayer,
    append_layers,
    attach_report,
    delete_manifest,
    find_manifest_digest,
    push_layout,
    read_manifest,
)
from warmstart.image.signatures.attach import ENVELOPE_TYPE, attach_signatures, read_attached, tag_of
from warmstart.image.signatures.check import ANYBODY, Trust, check_signatures
from warmstart.image.signatures.predicates import PROVENANCE, SBOM
from warmstart.image.signatures.statement import (
    BUNDLE_TYPE,
    SIGNED,
    Predicate,
    make_bundle,
    make_simple_signing,
    make_statement,
    seal,
)

STATEMENT = Predicate(PROVENANCE, {"buildDefinition": {"buildType": "test"}})
OTHER = "https://example.com/scan/v1"


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path)


@pytest.fixture
def stranger(tmp_path):
    return make_key(tmp_path, "stranger")


@pytest.fixture
def name(registry) -> Reference:
    return Reference(registry, f"team/{uuid4().hex}", "1.0")


@pytest.fixture
def digest(name, layout) -> str:
    """The digest of an image in the registry, without signatures."""
    layout.list(layout.image(uuid4().bytes))
    return push_layout(layout.path, name, access=http())


@pytest.fixture
def check(name, digest):
    def run(*keys):
        return check_signatures(name, read(name, digest), [key.public for key in keys], access=http())

    return run


@pytest.fixture
def attach(name, digest):
    """Attach a statement as somebody else would: in one of the two layouts."""

    def run(envelope: dict, kind: str, *, bundled: bool, key) -> None:
        if bundled:
            data = json.dumps(make_bundle(envelope, key.public)).encode()
            attach_report(name, digest, data, artifact_type=BUNDLE_TYPE, media_type=BUNDLE_TYPE, access=http())
        else:
            layer = TaggedLayer(json.dumps(envelope).encode(), ENVELOPE_TYPE, {"predicateType": kind})
            append_layers(tag_of(name, digest, "att"), [layer], access=http())

    return run


def read(name: Reference, digest: str) -> Manifest:
    return read_manifest(replace(name, tag=None, digest=digest), access=http())


def list_of_referrers(name: Reference, digest: str) -> Reference:
    """Return the tag with the list of what is attached, in a registry without the API for it."""
    return replace(name, tag=digest.replace(":", "-"))


def seal_about(name: Reference, digest: str, predicate: Predicate, key) -> dict:
    return seal(make_statement(name.name, digest, predicate), key)


def change(envelope: dict) -> dict:
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"] = {"changed": True}
    return {**envelope, "payload": base64.b64encode(json.dumps(statement).encode()).decode()}


def test_an_image_is_of_the_key_that_signed_it(name, digest, check, key, stranger):
    attach_signatures(name, digest, key, [STATEMENT], access=http())
    checked = check(stranger, key)
    assert checked.signers == (key.public,)
    assert checked.statements == (STATEMENT,)
    assert not checked.others
    with pytest.raises(SignatureError, match="no trusted key or identity signed") as caught:
        check(stranger)
    assert digest in caught.value.brief
    assert stranger.public.source in " ".join(caught.value.details)


def test_an_image_without_signatures_is_refused(check, key):
    with pytest.raises(SignatureError) as caught:
        check(key)
    assert "nothing is attached" in caught.value.details


def test_a_signature_is_of_one_digest(name, digest, key, layout):
    attach_signatures(name, digest, key, [], access=http())
    layout.list(layout.image(b"another layer"))
    other = push_layout(layout.path, name, access=http())
    # Whoever can push can also copy the signatures of one image to the other.
    for one in read_attached(name, digest, access=http()).envelopes:
        envelope = {
            "payload": base64.b64encode(one.payload).decode(),
            "payloadType": one.payload_type,
            "signatures": [{"sig": base64.b64encode(one.signatures[0][1]).decode()}],
        }
        data = json.dumps(make_bundle(envelope, key.public)).encode()
        attach_report(name, other, data, artifact_type=BUNDLE_TYPE, media_type=BUNDLE_TYPE, access=http())
    [(payload, signature)] = read_attached(name, digest, access=http()).simple
    layer = TaggedLayer(
        payload,
        "application/vnd.dev.cosign.simplesigning.v1+json",
        {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()},
    )
    append_layers(tag_of(name, other, "sig"), [layer], access=http())
    assert len(read_attached(name, other, access=http()).envelopes) == 1
    with pytest.raises(SignatureError, match="no trusted key or identity signed"):
        check_signatures(name, read(name, other), [key.public], access=http())


@pytest.mark.parametrize("kind", ["sig", "referrer"])
def test_either_layout_of_cosign_is_enough(name, digest, check, attach, key, kind):
    if kind == "sig":
        payload = make_simple_signing(str(name), digest)
        note = {"dev.cosignproject.cosign/signature": base64.b64encode(key.sign(payload)).decode()}
        layer = TaggedLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json", note)
        append_layers(tag_of(name, digest, "sig"), [layer], access=http())
    else:
        attach(seal_about(name, digest, Predicate(SIGNED, {}), key), SIGNED, bundled=True, key=key)
    assert check(key).signers == (key.public,)


def test_bundles_are_found_in_a_list_without_their_type(name, digest, check, key):
    """cosign 3 makes such a list in a registry without the referrers API, as this one."""
    data = json.dumps(make_bundle(seal_about(name, digest, Predicate(SIGNED, {}), key), key.public)).encode()
    empty = "application/vnd.oci.empty.v1+json"
    attach_report(name, digest, b"{}", artifact_type=empty, access=http())
    attach_report(name, digest, data, artifact_type=empty, media_type=BUNDLE_TYPE, access=http())
    checked = check(key)
    assert (checked.signers, checked.others) == ((key.public,), 0)


def test_a_signed_statement_alone_is_no_signature_of_the_image(name, digest, check, attach, key):
    attach(seal_about(name, digest, STATEMENT, key), PROVENANCE, bundled=True, key=key)
    with pytest.raises(SignatureError, match="no trusted key or identity signed"):
        check(key)


@pytest.mark.parametrize("bundled", [True, False])
def test_a_changed_statement_is_refused(name, digest, check, attach, key, bundled):
    attach_signatures(name, digest, key, [], access=http())
    envelope = change(seal_about(name, digest, Predicate(OTHER, {}), key))
    attach(envelope, OTHER, bundled=bundled, key=key)
    with pytest.raises(SignatureError, match="was changed"):
        check(key)


def test_a_statement_of_a_build_needs_a_trusted_key(name, digest, check, attach, key, stranger):
    attach_signatures(name, digest, key, [STATEMENT], access=http())
    attach(seal_about(name, digest, Predicate(OTHER, {}), stranger), OTHER, bundled=False, key=stranger)
    attach(seal_about(name, digest, STATEMENT, stranger), PROVENANCE, bundled=True, key=stranger)
    checked = check(key)  # one of the provenance is signed, and a scan may be of anybody
    assert checked.statements == (STATEMENT,)
    assert checked.others == 2
    attach(seal_about(name, digest, Predicate(SBOM, {}), stranger), SBOM, bundled=True, key=stranger)
    with pytest.raises(SignatureError, match="no trusted key or identity signed the statement"):
        check(key)
    assert len(check(key, stranger).statements) == 3


def test_a_signed_statement_about_another_image_is_refused(name, digest, check, attach, key):
    attach_signatures(name, digest, key, [], access=http())
    attach(seal_about(name, "sha256:" + "0" * 64, STATEMENT, key), PROVENANCE, bundled=False, key=key)
    with pytest.raises(SignatureError, match="about another image"):
        check(key)


def test_attachments_that_are_no_statements_do_no_harm(name, digest, check, key):
    attach_signatures(name, digest, key, [STATEMENT], access=http())
    broken = [b"", b"[]", b'{"dsseEnvelope": 1}', b'{"payload": 1, "payloadType": 2, "signatures": 3}']
    append_layers(tag_of(name, digest, "att"), [TaggedLayer(data, ENVELOPE_TYPE) for data in broken], access=http())
    attach_report(name, digest, broken[-1], artifact_type=BUNDLE_TYPE, media_type=BUNDLE_TYPE, access=http())
    assert check(key).others == len(broken) + 1


def test_signatures_of_others_stay(name, digest, check, key, stranger):
    attach_signatures(name, digest, stranger, [STATEMENT], access=http())
    attach_signatures(name, digest, key, [STATEMENT], access=http())
    assert check(stranger, key).signers == (stranger.public, key.public)


def test_only_an_image_in_a_registry_can_be_trusted(key, name, digest, tmp_path):
    source, manifest = Source(Transport.OCI, path=tmp_path), read(name, digest)
    with pytest.raises(SignatureError, match="is in no registry"):
        Trust((key.public,)).require(source, manifest)
    assert ANYBODY.require(source, manifest) is None


class TestStatementsOfTheBuild:
    """An image whose annotation says which statements its build attached and signed."""

    SAID = (STATEMENT, Predicate(SBOM, {"bomFormat": "CycloneDX"}))

    @pytest.fixture
    def digest(self, name, layout) -> str:
        notes = {PREFIX + STATEMENTS: " ".join(sorted(one.type for one in self.SAID))}
        layout.list(layout.image(uuid4().bytes, manifest={"annotations": notes}))
        return push_layout(layout.path, name, access=http())

    def remove(self, name: Reference, digest: str) -> None:
        """Remove all that is attached, as whoever can push to the registry can."""
        for attached in (tag_of(name, digest, "att"), tag_of(name, digest, "sig"), list_of_referrers(name, digest)):
            found = find_manifest_digest(attached, access=http())
            assert found
            delete_manifest(attached, found, access=http())

    def sign_alone(self, name: Reference, digest: str, key) -> None:
        """Attach a signature that the key made of the image, without the statements."""
        payload = make_simple_signing(str(name), digest)
        note = {"dev.cosignproject.cosign/signature": base64.b64encode(key.sign(payload)).decode()}
        layer = TaggedLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json", note)
        append_layers(tag_of(name, digest, "sig"), [layer], access=http())

    def test_all_of_them_are_accepted(self, name, digest, check, key):
        attach_signatures(name, digest, key, self.SAID, access=http())
        assert {one.type for one in check(key).statements} == {PROVENANCE, SBOM}

    def test_an_image_without_its_signature_is_refused(self, name, digest, check, key):
        attach_signatures(name, digest, key, self.SAID, access=http())
        self.remove(name, digest)
        with pytest.raises(SignatureError, match="no trusted key or identity signed"):
            check(key)

    def test_an_image_without_its_statements_is_refused(self, name, digest, check, key):
        attach_signatures(name, digest, key, self.SAID, access=http())
        self.remove(name, digest)
        self.sign_alone(name, digest, key)
        with pytest.raises(SignatureError, match=f"is missing.*{SBOM}") as caught:
            check(key)
        assert PROVENANCE in " ".join(caught.value.details)

    @pytest.mark.parametrize("left", SAID, ids=["provenance", "sbom"])
    def test_an_image_without_one_of_its_statements_is_refused(self, name, digest, check, key, left):
        attach_signatures(name, digest, key, [left], access=http())
        with pytest.raises(SignatureError, match="is missing"):
            check(key)

    def test_a_statement_about_another_image_does_not_stand_in(self, name, digest, check, attach, key):
        attach_signatures(name, digest, key, [STATEMENT], access=http())
        attach(seal_about(name, "sha256:" + "0" * 64, self.SAID[1], key), SBOM, bundled=False, key=key)
        with pytest.raises(SignatureError, match="about another image"):
            check(key)

    def test_a_statement_of_somebody_else_does_not_stand_in(self, name, digest, check, attach, key, stranger):
        attach_signatures(name, digest, key, [STATEMENT], access=http())
        attach(seal_about(name, digest, self.SAID[1], stranger), SBOM, bundled=True, key=stranger)
        with pytest.raises(SignatureError, match="no trusted key or identity signed the statement"):
            check(key)
        assert len(check(key, stranger).statements) == 2
