"""The key of a build: a digest of everything that decides the result.

The key is an annotation of the image, so that a later build with the same key can be skipped. It is one SHA-256 of
all inputs together, so that it reveals none of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import warmstart
from warmstart.core.cpu import read_features
from warmstart.core.linux import require_linux
from warmstart.image.encryption import digest_keys
from warmstart.node.hooks import hooks_key
from warmstart.node.launcher import launcher_path
from warmstart.node.tree import tree_path
from warmstart.recipe.model import Hooks, Recipe, Restorer

if TYPE_CHECKING:
    from warmstart.build.context import BuildOptions

# Increase it when the meaning of the other inputs changes.
_FORMAT = 1
# A wheel has these below the package, a checkout beside it; they have keys of their own.
_SOURCES = ("launcher", "hooks")
# 32 MiB and a tenth of a second, as RFC 7914 recommends for logins.
_SCRYPT_COST = 1 << 15
_CODE = (".py", ".json", ".lock", ".c")


@dataclass(frozen=True)
class BuildInputs:
    """Everything that decides the result of a build, except the base image.

    `images` is known once the images of services and init containers have been found.

    Attributes:
        recipe: the recipe as JSON with sorted keys, after `--set` and `--tag`.
        version: version of warmstart.
        code: digest of warmstart's own files, which change between versions in a checkout.
        tools: name of the tools directory: its key, and the time of its last update.
        launcher: the same of the launcher; empty if the image does not contain it.
        cpu: features of this machine's processor.
        runtime: socket, name and version of the host's runtime; empty for the embedded one.
        network: network of the containers.
        allowed: privileges granted to the recipe, sorted.
        force: whether preflight errors are ignored.
        hooks: digest of the agents for hooks; empty if the recipe has none.
        secrets: digest of the values of Secrets that the user gave; empty if there are none.
        encryption: digest of the keys that the layers are encrypted for; empty if they are not.
        images: digests of the images of services and init containers, each image once, in the order of the recipe.
    """

    recipe: str
    version: str
    code: str
    tools: str
    launcher: str
    cpu: tuple[str, ...]
    runtime: tuple[str, ...]
    network: str
    allowed: tuple[str, ...]
    force: bool
    hooks: str = ""
    secrets: str = ""
    encryption: str = ""
    images: tuple[str, ...] = ()

    def key(self, base_digest: str) -> str:
        """Return the key of a build from this base image, as `sha256:HEX`."""
        document = {"format": _FORMAT, "base": base_digest, **asdict(self)}
        return f"sha256:{hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()}"


def find_inputs(recipe: Recipe, options: BuildOptions, runtime_version: str = "") -> BuildInputs:
    """Find the inputs of a build on this machine.

    Args:
        recipe: the recipe.
        options: the options of the build.
        runtime_version: name and version of the runtime at `options.runtime_endpoint`.

    Raises:
        HostError: this machine does not run Linux.
    """
    require_linux("build images")
    by_itself = Restorer.SELF in recipe.restore
    return BuildInputs(
        recipe=_sort(recipe.document),
        version=warmstart.__version__,
        code=digest_code(),
        tools=tree_path(options.cache).name,
        launcher=launcher_path(options.cache).name if by_itself else "",
        cpu=read_features(),
        runtime=(options.runtime_endpoint, runtime_version) if options.runtime_endpoint else (),
        network=str(options.network),
        allowed=tuple(sorted(map(str, options.allowed))),
        force=options.force,
        hooks=hooks_key() if recipe.hooks is not Hooks.NONE else "",
        secrets=digest_secrets(recipe),
        encryption=digest_keys(options.encryption_keys),
    )


def digest_secrets(recipe: Recipe) -> str:
    """Return a digest of the values of Secrets that the user gave, and of real ones; empty if there are none.

    Everything else in a key may be known to those who can read it. So this digest is slow, and its salt is the recipe:
    to try out values costs as much as for a good table of passwords. Values made up at random do not count.
    """
    made_up = [one.value for one in recipe.secrets if not one.given]
    real = [one for one in recipe.secret_search.real if not any(value in one.value for value in made_up)]
    values = dict.fromkeys([*(one for one in recipe.secrets if one.given), *real])
    given = sorted((one.name, base64.b64encode(one.value).decode()) for one in values)
    if not given:
        return ""
    salt = hashlib.sha256(_sort(recipe.document).encode()).digest()
    return hashlib.scrypt(json.dumps(given).encode(), salt=salt, n=_SCRYPT_COST, r=8, p=1, maxmem=1 << 26).hex()


def _sort(document: str) -> str:
    return json.dumps(json.loads(document), sort_keys=True)


@cache
def digest_code() -> str:
    """Return a digest of warmstart's own files: modules, schemas, lock files, C sources."""
    package, found = Path(warmstart.__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*")):
        name = file.relative_to(package)
        if name.suffix in _CODE and name.parts[0] not in _SOURCES:
            content = file.read_bytes()
            found.update(f"{name}\0{len(content)}\0".encode())
            found.update(content)
    return found.hexdigest()
