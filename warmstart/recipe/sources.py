"""Values of the build in place of those of a cluster: of ConfigMaps, Secrets, and fields of the pod.

Everything that is missing becomes a problem, and the stanza of `build:` that would supply it.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from warmstart.core.quantity import parse_quantity
from warmstart.core.yaml_document import KeyPath, shown
from warmstart.recipe.model import Secret
from warmstart.recipe.objects import ROOT_CA, Objects
from warmstart.recipe.secret_names import secret_reason

Block = Mapping[str, Any]
Report = Callable[[KeyPath, str], None]

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 24
# Libraries refuse short keys: 512 bits for signatures with HS512, also if they read the text as base64, 6 bits in a
# character; a cipher takes 256 bits exactly.
_LENGTHS = (
    (re.compile(r"jwt|signing|hmac|secret[-_.]?key(?:[-_.]?base)?|app[-_.]?key|session", re.IGNORECASE), 88),
    (re.compile(r"aes|encrypt|cipher", re.IGNORECASE), 32),
)
_MOST_NAMES = 20
# A pod's own; those of its status are on the container's loopback interface, where every build has one.
_FIELDS = {
    "metadata.namespace": "default",
    "metadata.uid": "00000000-0000-4000-8000-000000000000",
    "metadata.labels": "",
    "metadata.annotations": "",
    "spec.nodeName": "node",
    "spec.serviceAccountName": "default",
    "status.hostIP": "127.0.0.1",
    "status.hostIPs": "127.0.0.1",
    "status.podIP": "127.0.0.1",
    "status.podIPs": "127.0.0.1",
}
# A self-signed certificate without a meaning: programs parse the cluster's at their start.
_CERTIFICATE = b"""\
-----BEGIN CERTIFICATE-----
MIIBjDCCATGgAwIBAgIUQJMT2K6ViDEMJo+Rtm3BPmGF964wCgYIKoZIzj0EAwIw
GjEYMBYGA1UEAwwPd2FybXN0YXJ0LWJ1aWxkMCAXDTI2MTEyODIzNTEwNFoYDzIx
MjYxMTA0MjM1MTA0WjAaMRgwFgYDVQQDDA93YXJtc3RhcnQtYnVpbGQwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAARiswMEZaRsbPCLRQfmbddi2QK5/RgG1cxgCdaU
AfPQASVNv2PGUK1XCnqtbGo0hHOl5gPNeUAUsR9lLsJ0Bt1To1MwUTAdBgNVHQ4E
FgQUYLMN1RowMYEiDIRiX5i3NYYoOvMwHwYDVR0jBBgwFoAUYLMN1RowMYEiDIRi
X5i3NYYoOvMwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEA7Ytj
ylV4gRKYfNM0qvtvcpV+1fS7A5vX0FjzYznuA90CIQDPzTms96jvVCXkUxmbLtz/
OFAzIms8J7k9quhpaGarBA==
-----END CERTIFICATE-----
"""


@dataclass
class Missing:
    """What no part of the recipe supplies: for each object its keys, none for all of them."""

    config_maps: dict[str, dict[str, None]] = field(default_factory=dict)
    secrets: dict[str, dict[str, None]] = field(default_factory=dict)
    fields: dict[str, None] = field(default_factory=dict)

    def stanza(self) -> list[str]:
        """Return the lines of `build:` that would supply it; none if nothing is missing."""
        lines: list[str] = []
        if self.config_maps:
            lines.append("  objects:  # or the files that hold them, such as k8s/config.yaml")
            for name, keys in self.config_maps.items():
                data = ", ".join(f"{key}: VALUE" for key in keys or ("KEY",))
                lines.append(f"    - {{kind: ConfigMap, metadata: {{name: {name}}}, data: {{{data}}}}}")
        if self.secrets:
            lines.append("  secrets:  # values for the build only; without a value, one is made up at random")
            for name, keys in self.secrets.items():
                lines.append(f"    {name}: {{{', '.join(f'{key}: null' for key in keys or ('KEY',))}}}")
        if self.fields:
            lines.append("  fields:")
            lines += [f"    {shown(name)}: VALUE" for name in self.fields]
        return ["build:", *lines] if lines else []


class Sources:
    """Answers the references of containers and volumes, and remembers which were asked for.

    Args:
        name: of the recipe, which stands in for the pod's.
        objects: that were read.
        build: the recipe's `build`, checked by the schema.
        files: values of Secrets given on the command line, by name and key.
        report: takes the path and the message of each problem.
    """

    def __init__(
        self, name: str, objects: Objects, build: Block, files: Mapping[tuple[str, str], bytes], report: Report
    ) -> None:
        self._objects = objects
        self._given: dict[tuple[str, str], bytes] = {}
        self._keys: dict[str, dict[str, None]] = {
            name: dict.fromkeys(known.keys) for name, known in objects.secrets.items()
        }
        for secret, values in build.get("secrets", {}).items():
            self._keys.setdefault(secret, {}).update(dict.fromkeys(values))
            self._given |= {(secret, key): value.encode() for key, value in values.items() if value is not None}
        self._named_by_build = frozenset(build.get("secrets", {}))
        for secret, key in files:
            self._keys.setdefault(secret, {})[key] = None
        self._given |= files
        self._files = frozenset(files)
        self._fields = {**_FIELDS, "metadata.name": name, **build.get("fields", {})}
        self._own_fields = frozenset(build.get("fields", {}))
        self._report = report
        self._values: dict[tuple[str, str], bytes] = {}
        self.used_config_maps: dict[str, None] = {}
        self.used_secrets: dict[str, None] = {}
        self.used_fields: dict[str, None] = {}
        self.missing = Missing()

    def config_map(self, name: str, path: KeyPath, *, optional: bool) -> tuple[Mapping[str, bytes], Mapping[str, str]]:
        """Return all the data of a ConfigMap and, of these, the texts."""
        found = self._objects.config_maps.get(name)
        if found is None and name == ROOT_CA:
            return {"ca.crt": _CERTIFICATE}, {"ca.crt": _CERTIFICATE.decode()}
        if found is None:
            if not optional:
                self.missing.config_maps.setdefault(name, {})
                self._report(path, f"the ConfigMap {name} is not in build.objects")
            return {}, {}
        self.used_config_maps[name] = None
        return found.data, found.texts

    def config_key(self, name: str, key: str, path: KeyPath, *, optional: bool, binary: bool = False) -> bytes | None:
        """Return the value of a key of a ConfigMap; None if it is missing."""
        found = self._objects.config_maps.get(name)
        if found is None and name != ROOT_CA:
            if not optional:
                self.missing.config_maps.setdefault(name, {})[key] = None
                self._report(path, f"the ConfigMap {name}, with the key {key}, is not in build.objects")
            return None
        data, texts = self.config_map(name, path, optional=optional)
        if key in data and (binary or key in texts):
            return data[key]
        if not optional:
            keys = list_names(data if binary else texts)
            self._report(path, f"the ConfigMap {name} has no key {key}; its keys are: {keys}")
        return None

    def secret(self, name: str, path: KeyPath, *, optional: bool) -> Mapping[str, bytes]:
        """Return all the values of a Secret."""
        if name not in self._keys:
            if not optional:
                self.missing.secrets.setdefault(name, {})
                self._report(path, f"the keys of the Secret {name} are not known: name them in build.secrets")
            return {}
        self.used_secrets[name] = None
        return {key: self._value(name, key) for key in self._keys[name]}

    def secret_key(self, name: str, key: str, path: KeyPath, *, optional: bool) -> bytes | None:
        """Return the value of a key of a Secret; None if it is missing."""
        known = self._keys.get(name)
        if optional and key not in (known or {}):
            return None
        # Only a manifest has all the keys of a Secret.
        if known is not None and key not in known and self._is_complete(name):
            if not optional:
                self.missing.secrets.setdefault(name, {})[key] = None
                self._report(path, f"the Secret {name} has no key {key}; its keys are: {list_names(known)}")
            return None
        self.used_secrets[name] = None
        return self._value(name, key)

    def field(self, name: str) -> str:
        """Return the stand-in for a field of the pod. Labels and annotations that nobody gives are empty."""
        self.used_fields[name] = None
        return str(self._fields.get(name, ""))

    def file_key(self, block: Block, path: KeyPath) -> str | None:
        """Return the value of a key of a file that an init container writes; None if it is missing."""
        name = f"{block['volumeName']}/{block['path']}/{block['key']}"
        if name in self._fields:
            return self.field(name)
        if not block.get("optional"):
            self.missing.fields[name] = None
            self._report(path, f"the build cannot read {shown(name)} before the container starts: give it a value")
        return None

    def secrets(self) -> tuple[Secret, ...]:
        """Return all values of Secrets that were asked for, in that order."""
        return tuple(
            Secret(f"{name}.{key}", value, given=(name, key) in self._given)
            for (name, key), value in self._values.items()
        )

    def given(self) -> Iterator[Secret]:
        """Yield the values of Secrets that the user gave, whether or not they were asked for."""
        for (name, key), value in self._given.items():
            yield Secret(f"{name}.{key}", value, given=True)

    def config_maps(self) -> Iterator[dict[str, Any]]:
        """Yield the ConfigMaps that were asked for, as objects."""
        for name in self.used_config_maps:
            yield self._objects.config_maps[name].to_block()

    def suspects(self) -> Iterator[tuple[str, str, str]]:
        """Yield the values of ConfigMaps that are probably secrets: object, key and reason."""
        for name in self.used_config_maps:
            for key, text in self._objects.config_maps[name].texts.items():
                if reason := secret_reason(key, text):
                    yield name, key, reason

    def secret_stubs(self) -> dict[str, dict[str, None]]:
        """Return the Secrets that were asked for, with the keys that were, as `build.secrets` without values."""
        stubs: dict[str, dict[str, None]] = {name: {} for name in self.used_secrets}
        for name, key in self._values:
            stubs[name][key] = None
        return stubs

    def unused(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield the values that nothing asked for: the path in the recipe, or the option, and the name."""
        for name, key in self._given:
            if (name, key) not in self._values:
                where: KeyPath = () if (name, key) in self._files else ("build", "secrets", name, key)
                yield where, f"{name}.{key}"
        for name in self._own_fields - set(self.used_fields):
            yield ("build", "fields", name), name

    def _is_complete(self, name: str) -> bool:
        return name in self._objects.secrets and name not in self._named_by_build

    def _value(self, name: str, key: str) -> bytes:
        if (name, key) not in self._values:
            length = next((length for words, length in _LENGTHS if words.search(key)), _LENGTH)
            made = "".join(secrets.choice(_ALPHABET) for _ in range(length)).encode()
            self._values[name, key] = self._given.get((name, key), made)
        return self._values[name, key]


def list_names(names: Iterable[str]) -> str:
    """Return the first names of a list for a message."""
    return shown(", ".join(islice(names, _MOST_NAMES)) or "none", 200)


def resource_amount(block: Block, resources: Block) -> str:
    """Return an amount of a container's resources, as a resourceFieldRef has it.

    Limits that are not set are the machine's, as they are the node's for the kubelet. Requests that are not set are
    the limits, or 0.

    Args:
        block: the resourceFieldRef.
        resources: of the container, checked by the schema.
    """
    kind, _, name = block["resource"].partition(".")
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    if kind == "limits":
        amount = parse_quantity(limits[name]) if name in limits else _machine(name)
    else:
        amount = parse_quantity(requests.get(name, limits.get(name, 0)))
    divisor = parse_quantity(block.get("divisor", 1)) or 1
    return str(math.ceil(amount / divisor))


def _machine(name: str) -> Any:
    if name == "cpu":
        return parse_quantity(os.cpu_count() or 1)
    if name == "memory":
        return parse_quantity(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return parse_quantity("10Gi")
