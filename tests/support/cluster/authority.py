"""A cluster's certificate authority, and kubeconfigs with its certificates. openssl creates them in a session."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmstart.node.session import Session

# Without openssl's default extensions.
REQUEST = "[req]\ndistinguished_name = subject\n[subject]\n"
DAYS = 30
OPENSSL_S = 60.0


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, in PEM."""

    certificate: str
    key: str = field(repr=False)

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write NAME.crt and NAME.key, and return their paths."""
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        certificate.write_text(self.certificate)
        key.touch(mode=0o600)
        key.write_text(self.key)
        return certificate, key


class Authority:
    """A certificate authority. Its certificate and key are in a new `directory` that the session can see."""

    def __init__(self, session: Session, directory: Path) -> None:
        self._session = session
        self._directory = directory
        directory.mkdir()
        (directory / "openssl.cnf").write_text(REQUEST)
        usage = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        self.certificate = self._make("/CN=warmstart-cluster", usage, []).certificate
        self.certificate_file = directory / "ca.crt"
        (directory / "last.crt").rename(self.certificate_file)
        (directory / "last.key").rename(directory / "ca.key")

    def issue(self, name: str, *, groups: Sequence[str] = (), addresses: Sequence[str] = ()) -> Identity:
        """Issue a certificate for a user in groups, or for a server at addresses (`DNS:localhost`, `IP:127.0.0.1`)."""
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={name}"
        extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
        if addresses:
            extensions.append(f"subjectAltName={','.join(addresses)}")
        signed = ["-CA", str(self.certificate_file), "-CAkey", str(self._directory / "ca.key")]
        return self._make(subject, extensions, signed)

    def _make(self, subject: str, extensions: Sequence[str], signed: Sequence[str]) -> Identity:
        certificate, key = self._directory / "last.crt", self._directory / "last.key"
        command = ["openssl", "req", "-x509", "-config", str(self._directory / "openssl.cnf"), "-days", str(DAYS)]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", subject, *signed]
        command += [word for extension in extensions for word in ("-addext", extension)]
        self._session.run([*command, "-out", certificate, "-keyout", key], timeout_s=OPENSSL_S)
        return Identity(certificate.read_text(), key.read_text())


def make_kubeconfig(server: str, authority: str, user: dict[str, str]) -> str:
    """Return a self-contained kubeconfig.

    Args:
        server: URL of the API server.
        authority: certificate of the authority.
        user: `user` entry of the kubeconfig.
    """
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "cluster", "cluster": {"server": server, "certificate-authority-data": _encode(authority)}}
        ],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "context",
    }
    # JSON is YAML.
    return json.dumps(document, indent=1)


def identify(identity: Identity) -> dict[str, str]:
    """Return the `user` entry of a kubeconfig for a user with a certificate."""
    return {
        "client-certificate-data": _encode(identity.certificate),
        "client-key-data": _encode(identity.key),
    }


def _encode(text: str) -> str:
    return b64encode(text.encode()).decode()
