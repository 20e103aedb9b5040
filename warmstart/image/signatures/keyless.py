"""Sign with an identity instead of a key, as `cosign sign` does without `--key`.

The identity is that of an OIDC token, which the CI system gives to a job. Fulcio certifies a new key for it, each
signature is entered into a transparency log (Rekor), and a timestamp authority or the log says when that was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from warmstart.core.errors import HostError, InputError, SigningError
from warmstart.image.signatures.identity import CertificateIdentity, read_certificate
from warmstart.image.signatures.keys import SigningKey
from warmstart.image.signatures.sigstore_config import flatten, load_config, load_public_config

#: The variable with an identity token; cosign's and sigstore-python's.
ID_TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105  (a name)
#: The file of a token that cosign looks for, as a volume of a pod in Kubernetes has it.
MOUNTED_TOKEN = Path("/var/run/sigstore/cosign/oidc-token")

# A certificate of Fulcio's lasts ten minutes.
_LEFT = timedelta(minutes=2)
_NO_IDENTITY = (
    "GitHub Actions: the job needs `permissions: id-token: write`; with sudo, keep the variables ACTIONS_ID_TOKEN_*",
    f"GitLab CI/CD: `id_tokens` with {ID_TOKEN} and the audience sigstore",
    f"elsewhere: a token in {ID_TOKEN}, or its file with --identity-token",
)


@dataclass
class KeylessSigner:
    """Signs with an identity. It can be pickled, for builds in other processes.

    Attributes:
        token: file with the identity token; None to look for a token as cosign does.
        signing_config: file with the addresses of Fulcio, Rekor and others; None for the public Sigstore.
        trusted_root: file with their keys, which belongs to `signing_config`.
    """

    token: Path | None = None
    signing_config: Path | None = None
    trusted_root: Path | None = None
    _signer: Any = field(default=None, init=False, repr=False, compare=False)
    _certificate: Any = field(default=None, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return KeylessSigner, (self.token, self.signing_config, self.trusted_root)

    def prepare(self) -> None:
        """Get a certificate, unless there is one that lasts.

        Raises:
            HostError: there is no identity, or the package is not installed.
            InputError: the token or a file is not acceptable.
            SigningError: Fulcio refused, or cannot be reached.
        """
        if self._certificate is not None and datetime.now(UTC) + _LEFT < self._certificate.not_valid_after_utc:
            return
        from warmstart.image.signatures import sigstore_package as p

        token = _parse_token(find_token(self.token))
        private = self.trusted_root and load_config(self.trusted_root, self.signing_config)
        context = p.SigningContext.from_trust_config(private or load_public_config())
        with _reporting("get a certificate from Fulcio"):
            self._signer = p.Signer(token, context)
            self._certificate = self._signer._signing_cert()

    @property
    def public(self) -> CertificateIdentity:
        """The identity that its signatures are of. Errors as for `prepare`."""
        self.prepare()
        names, issuer = read_certificate(self._certificate)
        return CertificateIdentity(names[0], issuer, self.trusted_root)

    def sign(self, statement: bytes) -> bytes:
        """Return the Sigstore bundle of a signed statement, as JSON. Errors as for `prepare`."""
        from warmstart.image.signatures import sigstore_package as p

        self.prepare()
        with _reporting("sign a statement"):
            return str(self._signer.sign_dsse(p.Statement(statement)).to_json()).encode()


Signer = SigningKey | KeylessSigner


def make_keyless_signer(token: Path | None, signing_config: Path | None, trusted_root: Path | None) -> KeylessSigner:
    """Return a signer for the public Sigstore, or for a private deployment if the files are given.

    Raises:
        InputError: only one of the two files is given.
    """
    if (signing_config is None) != (trusted_root is None):
        raise InputError(
            "--signing-config and --trusted-root belong together",
            hint="one names a private deployment of Sigstore, the other has its keys",
        )
    return KeylessSigner(token, signing_config, trusted_root)


def find_token(file: Path | None) -> str:
    """Return the identity token in a file, in the environment, or of the CI system.

    Raises:
        InputError: the file cannot be read.
        HostError: there is no token.
    """
    from warmstart.image.signatures import sigstore_package as p

    if file is None and (given := os.environ.get(ID_TOKEN)):
        return given.strip()
    if file is not None or MOUNTED_TOKEN.is_file():
        path = file or MOUNTED_TOKEN
        try:
            return path.read_text().strip()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the identity token in {path}: {flatten(error)}") from error
    try:
        found = p.detect_credential()
    except p.IdentityError as error:
        raise HostError(f"the CI system gives no identity: {flatten(error):.300}", details=_NO_IDENTITY) from error
    if not found:
        raise HostError("there is no identity to sign with", details=_NO_IDENTITY)
    return found


def _parse_token(text: str) -> Any:
    from warmstart.image.signatures import sigstore_package as p

    try:
        return p.IdentityToken(text)
    except p.IdentityError as error:
        why = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise InputError(
            f"the identity token is not acceptable: {flatten(why):.200}",
            hint="its audience must be sigstore, and it must last until the image is published",
        ) from error


@contextlib.contextmanager
def _reporting(action: str) -> Iterator[None]:
    """Raise the errors of Sigstore's services as SigningError, with their answer."""
    try:
        yield
    except Exception as error:  # of requests, of the package and of its parsers
        raise SigningError(f"cannot {action}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """Return what a service answered, or the error's text."""
    for one in (error, error.__cause__, *error.args):
        response = getattr(one, "response", None)
        if response is not None:
            return f"{response.status_code} from {response.url}: {' '.join(response.text.split()):.300}"
    return f"{flatten(error):.300}"
