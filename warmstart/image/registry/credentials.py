"""Find registry credentials in the files of podman, buildah, skopeo and docker.

Format and order: containers-auth.json(5), pkg/docker/config of https://github.com/containers/image, and
docker's config.json with its credential helpers (https://github.com/docker/docker-credential-helpers).
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmstart.core import process
from warmstart.core.errors import HostError, RegistryError
from warmstart.core.reference import DOCKER_HUB, Reference
from warmstart.core.untrusted_json import JsonError, parse_json

_HELPER_TIMEOUT_S = 60.0
# The largest tokens have some ten KiB.
_HELPER_LIMIT_BYTES = 1 << 20
# Docker's key for the credentials of Docker Hub.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_DOCKER_HUB_HOSTS = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
# Part of a program name in PATH: with a slash, it could name any program.
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")
# A helper's user name if the secret is an identity token.
_NAMELESS = "<token>"


@dataclass(frozen=True)
class Credentials:
    """A user name and password, or an identity token (an OAuth 2 refresh token).

    `source` is the file and key, without the secret.
    """

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = ""


@dataclass(frozen=True)
class RegistryAccess:
    """How to reach registries.

    Attributes:
        plain_http: registries (HOST[:PORT]) without TLS; all others use HTTPS with verified certificates.
        auth_file: the credentials file; None to search the usual ones, as `find_credentials` does.
    """

    plain_http: tuple[str, ...] = ()
    auth_file: Path | None = None

    def uses_plain_http(self, reference: Reference) -> bool:
        """Return whether the registry of an image is accessed without TLS."""
        return reference.registry in self.plain_http

    def find_credentials(self, reference: Reference) -> Credentials | None:
        """Find the credentials for an image's repository; errors as for the function `find_credentials`."""
        return find_credentials(reference, self.auth_file)

    def search_credentials(self, reference: Reference) -> Search:
        """Find the credentials for an image's repository, and list the files searched."""
        return search_credentials(reference, self.auth_file)


DEFAULT_ACCESS = RegistryAccess()


@dataclass(frozen=True)
class Search:
    """The result of a search: the credentials, and one line for each file searched."""

    credentials: Credentials | None
    looked_at: tuple[str, ...]


def find_credentials(reference: Reference, auth_file: Path | None = None) -> Credentials | None:
    """Find the credentials for an image's repository.

    `auth_file`, or else $REGISTRY_AUTH_FILE, is the only file that is read when it is given. Otherwise these
    are, the first that has an entry wins: containers/auth.json in $XDG_RUNTIME_DIR (/run/containers/UID/auth.json
    without that variable), containers/auth.json in $XDG_CONFIG_HOME or ~/.config, and config.json in
    $DOCKER_CONFIG or ~/.docker. Within a file the most specific key wins: HOST/a/b before HOST/a before HOST.

    Raises:
        RegistryError: `auth_file` does not exist, a file is broken, or a credential helper failed.
    """
    return search_credentials(reference, auth_file).credentials


def search_credentials(reference: Reference, auth_file: Path | None = None) -> Search:
    """Find credentials as `find_credentials` does, and list the files searched."""
    looked_at: list[str] = []
    if auth_file and not auth_file.is_file():
        raise RegistryError(f"{auth_file}: no such credentials file")
    for path in _list_files(auth_file):
        if not path.is_file():
            looked_at.append(f"{path}: does not exist")
            continue
        file = _AuthFile.read(path)
        credentials, note = file.find(reference)
        looked_at.append(f"{path}: {note}")
        if credentials:
            return Search(credentials, tuple(looked_at))
    return Search(None, tuple(looked_at))


def _list_files(auth_file: Path | None) -> Iterator[Path]:
    explicit = auth_file or os.environ.get("REGISTRY_AUTH_FILE")
    if explicit:
        yield Path(explicit)
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    yield Path(runtime, "containers/auth.json") if runtime else Path(f"/run/containers/{os.getuid()}/auth.json")
    yield Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "containers/auth.json")
    yield Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json")


@dataclass(frozen=True)
class _AuthFile:
    path: Path
    auths: Mapping[str, Any]
    helpers: Mapping[str, Any]
    store: str

    @classmethod
    def read(cls, path: Path) -> _AuthFile:
        try:
            document = parse_json(path.read_bytes() or b"{}")
        except OSError as error:
            raise RegistryError(f"{path}: cannot read the credentials file: {error}") from error
        except JsonError as error:
            raise RegistryError(f"{path}: cannot read the credentials file: it {error}") from error
        broken = RegistryError(
            f"{path} is not a credentials file", hint="recreate it with podman login or docker login"
        )
        if not isinstance(document, dict):
            raise broken
        auths, helpers = document.get("auths") or {}, document.get("credHelpers") or {}
        store = document.get("credsStore") or ""
        if not isinstance(auths, dict) or not isinstance(helpers, dict) or not isinstance(store, str):
            raise broken
        return cls(path, auths, helpers, store)

    def find(self, reference: Reference) -> tuple[Credentials | None, str]:
        """Return the credentials and a short note on the result."""
        helper = self.helpers.get(reference.registry)
        if helper:
            return self._ask_helper(helper, reference.registry)
        key, entry = self._find_entry(reference)
        credentials = self._read_entry(key, entry)
        if credentials:
            return credentials, f"an entry for {key}, user {credentials.username or _NAMELESS}"
        if self.store:
            # docker leaves an empty entry for credentials in the store.
            url = _DOCKER_HUB_KEY if reference.registry == DOCKER_HUB else reference.registry
            return self._ask_helper(self.store, url)
        return None, f"no entry for {reference.registry}"

    def _find_entry(self, reference: Reference) -> tuple[str, Any]:
        key = reference.name
        while key:
            if key in self.auths:
                return key, self.auths[key]
            key = key.rpartition("/")[0]
        # Keys were once URLs of registries, and Docker Hub's still is. Without a scheme, a path is a namespace.
        for key, entry in self.auths.items():
            if ("://" in key or "/" not in key) and _find_host(key) == _find_host(reference.registry):
                return key, entry
        return "", {}

    def _read_entry(self, key: str, entry: Any) -> Credentials | None:
        broken = RegistryError(
            f"{self.path}: the entry for {key} is broken", hint="log in again with podman login or docker login"
        )
        if not isinstance(entry, dict):
            raise broken
        fields = [entry.get(name) or "" for name in ("username", "password", "identitytoken", "auth")]
        if not all(isinstance(value, str) for value in fields):
            raise broken
        username, password, token, auth = fields
        if auth:
            try:
                username, colon, password = base64.b64decode(auth).decode().partition(":")
            except ValueError as error:
                raise broken from error
            if not colon:
                raise broken
        # Old versions of docker filled the password up with zero bytes.
        password = password.strip("\0")
        if not token and not (username and password):
            return None
        return Credentials(username, password, token, source=f"{self.path} ({key})")

    def _ask_helper(self, suffix: object, url: str) -> tuple[Credentials | None, str]:
        if not isinstance(suffix, str) or not _HELPER_NAME.fullmatch(suffix):
            hint = "use the NAME of a docker-credential-NAME program in PATH: letters, digits, and . _ -"
            raise RegistryError(f"{self.path}: {suffix!r:.80} is not a credential helper's name", hint=hint)
        program = f"docker-credential-{suffix}"
        try:
            done = process.run(
                [program, "get"],
                timeout_s=_HELPER_TIMEOUT_S,
                check=False,
                stdin=url,
                limit_bytes=_HELPER_LIMIT_BYTES,
            )
        except process.ProgramError as error:
            raise RegistryError(f"{self.path}: credential helper {program} {error.end}") from error
        except HostError:
            return None, f"credential helper {program} is not installed"
        if done.returncode != 0:
            # Helpers report a missing entry on standard output, with the same status as a failure.
            lines = (done.stdout + done.stderr).strip().splitlines()
            return None, f"credential helper {program} has nothing for {url}: {' '.join(lines[-1:])}"
        try:
            answer = parse_json(done.stdout.encode())
            username, secret = answer["Username"], answer["Secret"]
        except (JsonError, TypeError, KeyError) as error:
            raise RegistryError(f"{self.path}: credential helper {program} returned invalid output") from error
        source = f"{self.path} ({program})"
        if username == _NAMELESS:
            return Credentials("", identity_token=secret, source=source), f"{program} has an identity token"
        return Credentials(username, secret, source=source), f"{program} has an entry, user {username}"


def _find_host(key: str) -> str:
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DOCKER_HUB if host in _DOCKER_HUB_HOSTS else host
