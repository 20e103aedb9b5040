"""Signatures without a key, as far as no service is needed: the token, the files, and errors of one line."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from pathlib import Path

import jwt
import pytest
from support.private_sigstore import make_config

from warmstart.core.errors import HostError, InputError, SigningError
from warmstart.core.reference import Reference
from warmstart.image.signatures import attach, keyless, sigstore_package
from warmstart.image.signatures.attach import attach_signatures
from warmstart.image.signatures.keyless import KeylessSigner, find_token, make_keyless_signer
from warmstart.image.signatures.predicates import PROVENANCE
from warmstart.image.signatures.statement import SIGNED, Predicate

NOBODY = "http://127.0.0.1:9"
ROOT = Path(__file__).with_name("samples") / "trusted-root.json"


def make_token(*, age_s: int = 0, audience: str = "sigstore") -> str:
    issued = int(time.time()) - age_s
    times = {"iat": issued, "exp": issued + 600}
    return jwt.encode({"iss": NOBODY, "sub": "job", "aud": audience, **times}, "key" * 11, algorithm="HS256")


@pytest.fixture(autouse=True)
def no_job(monkeypatch, tmp_path):
    """Run outside of any CI system."""
    monkeypatch.setattr(keyless, "MOUNTED_TOKEN", tmp_path / "mounted")
    monkeypatch.setattr(sigstore_package, "detect_credential", lambda: None)
    monkeypatch.delenv("SIGSTORE_ID_TOKEN", raising=False)


@pytest.fixture
def files(tmp_path):
    """Return the configuration and the trusted root of a deployment that nobody runs."""
    config, root = tmp_path / "config.json", tmp_path / "root.json"
    config.write_text(json.dumps(make_config(NOBODY, NOBODY, NOBODY)))
    shutil.copy(ROOT, root)
    return config, root


def test_a_token_is_found_where_cosign_finds_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sigstore_package, "detect_credential", lambda: "ambient")
    assert find_token(None) == "ambient"
    (tmp_path / "mounted").write_text("mounted\n")
    assert find_token(None) == "mounted"
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", "variable")
    assert find_token(None) == "variable"
    (tmp_path / "file").write_text("file\n")
    assert find_token(tmp_path / "file") == "file"


def test_a_file_without_a_token_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the identity token"):
        find_token(tmp_path / "missing")


def test_without_an_identity_it_is_said_how_to_get_one():
    with pytest.raises(HostError, match="there is no identity to sign with") as caught:
        find_token(None)
    assert "id-token: write" in " ".join(caught.value.details)


def test_a_job_without_the_permission_is_told_so(monkeypatch):
    def refuse():
        raise sigstore_package.IdentityError("GitHub: missing or insufficient OIDC token permissions")

    monkeypatch.setattr(sigstore_package, "detect_credential", refuse)
    with pytest.raises(HostError, match="the CI system gives no identity: GitHub: missing") as caught:
        find_token(None)
    assert "id-token: write" in " ".join(caught.value.details)


@pytest.mark.parametrize(
    ("token", "why"),
    [(make_token(age_s=3600), "expired"), (make_token(audience="other"), "[Aa]udience"), ("x.y", "segments"), ("", "")],
)
def test_a_token_that_fulcio_would_refuse_is_an_error_before_the_build(files, monkeypatch, tmp_path, token, why):
    (tmp_path / "token").write_text(token)
    with pytest.raises(InputError, match=f"the identity token is not acceptable: .*{why}"):
        KeylessSigner(tmp_path / "token", *files).prepare()


def test_a_fulcio_that_is_not_there_is_one_error(files, monkeypatch):
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", make_token())
    with pytest.raises(SigningError, match=r"cannot get a certificate from Fulcio: .*127\.0\.0\.1.*refused") as caught:
        KeylessSigner(None, *files).prepare()
    assert "\n" not in caught.value.brief
    assert make_token()[:10] not in caught.value.brief


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"mediaType": "application/json"}'])
def test_a_file_that_is_no_configuration_is_refused(files, monkeypatch, text):
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", make_token())
    config, root = files
    config.unlink()
    if text is not None:
        config.write_text(text)
    with pytest.raises(InputError, match=r"cannot use .*config\.json with .*root\.json"):
        KeylessSigner(None, config, root).prepare()


def test_a_private_deployment_needs_both_files(files):
    for given in ((files[0], None), (None, files[1])):
        with pytest.raises(InputError, match="belong together"):
            make_keyless_signer(None, *given)
    assert make_keyless_signer(None, *files) == KeylessSigner(None, *files)


def test_a_signer_crosses_to_another_process_without_its_certificate(files):
    signer = KeylessSigner(None, *files)
    signer._signer = signer._certificate = lambda: "cannot be pickled"
    copy = pickle.loads(pickle.dumps(signer))
    assert copy == signer
    assert copy._certificate is None


class TestAttaching:
    """Statements are signed before the first of them is attached."""

    TARGET = Reference("registry.example.com", "team/app", "1")

    @pytest.fixture
    def calls(self, monkeypatch) -> list[str]:
        calls: list[str] = []
        monkeypatch.setattr(attach, "attach_report", lambda *_, annotations, **__: calls.append(annotations))
        monkeypatch.setattr(attach, "append_layers", lambda *_, **__: pytest.fail("not understood without a key"))
        return calls

    def test_each_is_a_bundle(self, calls, monkeypatch):
        monkeypatch.setattr(KeylessSigner, "sign", lambda _, statement: statement)
        attach_signatures(self.TARGET, "sha256:0", KeylessSigner(), [Predicate(PROVENANCE, {})])
        assert [one["dev.sigstore.bundle.predicateType"] for one in calls] == [PROVENANCE, SIGNED]

    def test_if_one_cannot_be_signed_none_is_attached(self, calls, monkeypatch):
        def sign(_, statement: bytes) -> bytes:
            if SIGNED.encode() in statement:
                raise SigningError("cannot sign")
            return statement

        monkeypatch.setattr(KeylessSigner, "sign", sign)
        with pytest.raises(SigningError):
            attach_signatures(self.TARGET, "sha256:0", KeylessSigner(), [Predicate(PROVENANCE, {})])
        assert calls == []
