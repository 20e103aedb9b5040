"""List the files of this machine that the tools need: names, trusted certificates, and the policy for images.

skopeo, buildah and CRI-O read the policy in containers-policy.json(5), containers-registries.conf(5),
containers-registries.d(5) and containers-certs.d(5), below /etc and below the home directory. They also need
the keys and the directories of signatures that these files name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from warmstart.node.keeper import Bind

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
CA_BUNDLES_OF_HOSTS = (
    CA_BUNDLE,
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
NAMES = ("etc/resolv.conf", "etc/hosts")
POLICY_FILES = ("policy.json", "registries.conf")
POLICY_DIRECTORIES = ("registries.conf.d", "registries.d", "certs.d")
HOME_CONFIG = ".config/containers"
SESSION_HOME = "/root"

_LOOKASIDE = re.compile(r"""file://(/[^\s"']+)""")


def list_host_files(root: Path = Path("/"), home: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield pairs of a path in the tools directory and the file of this machine to put there.

    Args:
        root: root directory of this machine.
        home: home directory; the user's if None.
    """
    home = home or Path.home()
    for name in NAMES:
        if (root / name).exists():
            yield f"/{name}", str(root / name)
    yield from _list_certificates(root)
    system, user = root / "etc/containers", home / HOME_CONFIG
    for directory, inside in ((system, "/etc/containers"), (user, f"{SESSION_HOME}/{HOME_CONFIG}")):
        yield from _list_policy(directory, inside)
        yield from _list_keys(directory / "policy.json", root)
    yield from _list_tree(root / "etc/docker/certs.d", "/etc/docker/certs.d")


def list_host_binds(root: Path = Path("/"), home: Path | None = None) -> list[Bind]:
    """List this machine's directories of signatures that the policy names; arguments as `list_host_files`."""
    home = home or Path.home()
    found = set()
    for directory in (root / "etc/containers/registries.d", home / HOME_CONFIG / "registries.d"):
        for _, file in _list_tree(directory, ""):
            for path in _LOOKASIDE.findall(Path(file).read_text(errors="replace")):
                if path.strip("/") and (root / path.lstrip("/")).is_dir():
                    found.add(path.rstrip("/"))
    return [Bind(path) for path in sorted(found)]


def _list_certificates(root: Path) -> Iterator[tuple[str, str]]:
    bundles = [Path(os.environ.get("SSL_CERT_FILE", "")), *(root / name.lstrip("/") for name in CA_BUNDLES_OF_HOSTS)]
    for bundle in bundles:
        if bundle.is_file():
            yield CA_BUNDLE, str(bundle.absolute())
            return


def _list_policy(directory: Path, inside: str) -> Iterator[tuple[str, str]]:
    for name in POLICY_FILES:
        if (directory / name).is_file():
            yield f"{inside}/{name}", str(directory / name)
    for name in POLICY_DIRECTORIES:
        yield from _list_tree(directory / name, f"{inside}/{name}")


def _list_tree(directory: Path, inside: str) -> Iterator[tuple[str, str]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield f"{inside}/{path.relative_to(directory)}", str(path)


def _list_keys(policy: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Yield the key and certificate files that a policy names, at their own paths."""
    try:
        document = json.loads(policy.read_text())
    except (OSError, ValueError):
        # skopeo reports a broken policy.
        return
    for path in sorted(_find_paths(document)):
        file = root / path.lstrip("/")
        if file.is_file():
            yield path, str(file)


def _find_paths(document: object) -> set[str]:
    """Return the absolute paths under keys such as keyPath, keyPaths, rekorPublicKeyPath and caRootsPath."""
    found: set[str] = set()
    if isinstance(document, list):
        for item in document:
            found |= _find_paths(item)
    elif isinstance(document, dict):
        for key, value in document.items():
            if str(key).endswith(("Path", "Paths")):
                values = value if isinstance(value, list) else [value]
                found |= {path for path in values if isinstance(path, str) and path.startswith("/")}
            else:
                found |= _find_paths(value)
    return found
