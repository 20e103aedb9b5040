"""The ConfigMaps and Secrets that containers refer to, and what a build gets in their place.

Of a Secret only the names of its keys are read, never a value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmstart.core.yaml_document import shown
from warmstart.recipe.init.inputs import InputObject, Inputs
from warmstart.recipe.init.kinds import parted
from warmstart.recipe.pods import Block, blocks_at, mapping_at

# Every namespace has it; the build has a stand-in.
_ROOT_CA = "kube-root-ca.crt"
# Keys and variables whose random value would be refused by a program that reads it at its start.
_MEANINGFUL = re.compile(
    r"(?:^|[^a-z])(?:ur[il]s?|hosts?|hostname|ports?|dsn|endpoints?|connection(?:-?strings?)?|addr(?:ess)?(?:es)?|servers?|brokers?"
    r"|type|provider|issuer|crt|cert|pem|jks|p12|pfx|json|ya?ml|properties|conf|config|ini|toml|env|keystore|truststore|key-?file)$"
)
_ACCOUNT = re.compile(r"(?:^|[^a-z])(?:(?:db-?)?user(?:-?name)?|database|db-?name|db|schema)$")
# Keys whose random value would be refused too, and whose form their names tell.
_FORMS = (
    (re.compile(r"(?:^|-)(?:enabled?|disabled|debug|secure|use-(?:ssl|tls))$"), "false"),
    (
        re.compile(r"(?:^|-)(?:expir(?:y|es|ation)(?:-(?:in|time|ms|seconds|minutes|days))?|ttl|timeout(?:-ms)?)$"),
        "3600",
    ),
    (re.compile(r"sentry.*-dsn$"), "https://key@stand-in.invalid/1"),
    (re.compile(r"(?:smtp|mail).*-port$"), "587"),
    (re.compile(r"(?:smtp|mail).*-(?:host|hostname|server)$"), "stand-in.invalid"),
    (
        re.compile(
            r"(?:^|-)(?:issuer-ur[il]|(?:callback|redirect|webhook|client|frontend|public|base|app|site|api)-ur[il])$"
        ),
        "https://stand-in.invalid",
    ),
)
_TLS = "kubernetes.io/tls"


@dataclass(frozen=True)
class Use:
    """A reference to a ConfigMap or Secret.

    Attributes:
        kind: `ConfigMap` or `Secret`.
        name: of the object.
        key: one of its keys; None for all.
        optional: whether a pod starts without it.
        place: the text for people, such as `DB_PASSWORD` or `/etc/shop`.
        as_file: whether it becomes a file.
    """

    kind: str
    name: str
    key: str | None
    optional: bool
    place: str
    as_file: bool = False


@dataclass
class Supplies:
    """The parts of `build:` that stand in for objects, and remarks.

    Attributes:
        objects: files, relative to the recipe, or whole ConfigMaps.
        secrets: keys of Secrets; those of known services have values, all others none.
        to_do: reasons why the recipe cannot be built as it stands.
        notes: other remarks.
        absent: whether an object is not in the input.
    """

    objects: list[str | Block] = field(default_factory=list)
    secrets: dict[str, dict[str, str | None]] = field(default_factory=dict)
    to_do: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: bool = False


def list_uses(container: Block, volumes: Sequence[Block]) -> Iterator[Use]:
    """Yield the references of a container: in its variables, and in the volumes that it mounts."""
    for item in blocks_at(container, "env"):
        for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            reference = mapping_at(item, "valueFrom", key)
            if isinstance(reference.get("name"), str) and isinstance(reference.get("key"), str):
                yield _use(kind, reference, reference["key"], str(item.get("name")))
    for item in blocks_at(container, "envFrom"):
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            reference = mapping_at(item, key)
            if isinstance(reference.get("name"), str):
                yield _use(kind, reference, None, "envFrom")
    by_name = {str(volume.get("name")): volume for volume in volumes}
    for mount in blocks_at(container, "volumeMounts"):
        yield from _volume_uses(by_name.get(str(mount.get("name")), {}), str(mount.get("mountPath")))


def _volume_uses(volume: Block, place: str) -> Iterator[Use]:
    for holder in (volume, *blocks_at(volume, "projected", "sources")):
        for key, kind, named in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
            reference = mapping_at(holder, key)
            name = reference.get(named, reference.get("name"))
            if not isinstance(name, str):
                continue
            keys = [item.get("key") for item in blocks_at(reference, "items")]
            for one in keys or [None]:
                yield _use(kind, {**reference, "name": name}, one, place, as_file=True)


def _use(kind: str, reference: Block, key: Any, place: str, *, as_file: bool = False) -> Use:
    optional = reference.get("optional") is True
    return Use(kind, reference["name"], key if isinstance(key, str) else None, optional, place, as_file)


def supply(
    own: Sequence[Use],
    of_services: Sequence[Use],
    bindings: Mapping[str, Mapping[str, str]],
    inputs: Inputs,
    directory: Path,
) -> Supplies:
    """Find stand-ins for all references.

    Args:
        own: references of the pod's containers that run in the build.
        of_services: those of the services.
        bindings: for Secrets that describe a service of the build, the values of some keys.
        inputs: the objects to look into.
        directory: of the recipe, where its relative paths start.
    """
    supplies = Supplies()
    by_object: dict[tuple[str, str], list[Use]] = {}
    for use in (*own, *of_services):
        by_object.setdefault((use.kind, use.name), []).append(use)
    for (kind, name), group in by_object.items():
        if kind == "ConfigMap":
            _supply_config_map(name, group, inputs, directory, supplies)
        else:
            _supply_secret(name, group, inputs, supplies)
            if (binding := bindings.get(name)) is not None and name in supplies.secrets:
                keys = supplies.secrets[name]
                supplies.secrets[name] = {key: binding.get(key) for key in keys}
            _note_unfit(name, own, of_services, supplies)
    return supplies


def relative(file: Path, directory: Path) -> str:
    """Return a file's path relative to the recipe's directory."""
    return os.path.relpath(file.absolute(), directory.absolute())


def _supply_config_map(name: str, uses: list[Use], inputs: Inputs, directory: Path, supplies: Supplies) -> None:
    found = inputs.find("ConfigMap", name)
    required = [use for use in uses if not use.optional]
    if found is None:
        if name != _ROOT_CA and required:
            supplies.absent = True
            supplies.to_do.append(
                f"ConfigMap/{shown(name)}, for {_places(required)}, is not in {inputs.name}: add its file to "
                f"build.objects, or write it there: {{kind: ConfigMap, metadata: {{name: {shown(name)}}}, "
                f"data: {{{', '.join(f'{key}: VALUE' for key in _keys_of(required) or ['KEY'])}}}}}"
            )
        return
    entry: str | Block = _inline(found) if found.file is None else relative(found.file, directory)
    if entry not in supplies.objects:
        supplies.objects.append(entry)
    known = {**mapping_at(found.value, "data"), **mapping_at(found.value, "binaryData")}
    missing = [use for use in required if use.key is not None and use.key not in known]
    if missing:
        keys = ", ".join(map(shown, _keys_of(missing)))
        supplies.to_do.append(f"ConfigMap/{shown(name)} has no key {keys}, for {_places(missing)}: add it")


def _inline(found: InputObject) -> Block:
    data = {key: found.value[key] for key in ("data", "binaryData") if mapping_at(found.value, key)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": found.name}, **data}


def _supply_secret(name: str, uses: list[Use], inputs: Inputs, supplies: Supplies) -> None:
    known = secret_keys(name, inputs)
    keys = dict.fromkeys(_keys_of(uses))
    whole = [use for use in uses if use.key is None]
    if whole:
        keys |= dict.fromkeys(known or ())
    if whole and known is None and not keys:
        required = [use for use in whole if not use.optional]
        if required:
            supplies.absent = True
            supplies.to_do.append(
                f"the keys of Secret/{shown(name)}, for {_places(required)}, are unknown: name them in build.secrets: "
                f"{{{shown(name)}: {{KEY: null}}}}"
            )
        return
    required_keys = {use.key for use in uses if use.key is not None and not use.optional}
    if known is not None and (absent := required_keys - set(known)):
        names = ", ".join(map(shown, sorted(map(str, absent))))
        supplies.notes.append(f"Secret/{shown(name)} in {inputs.name} has no key {names}; pods would not start")
    supplies.secrets[name] = dict.fromkeys(keys)


def _note_unfit(name: str, own: Sequence[Use], of_services: Sequence[Use], supplies: Supplies) -> None:
    """Name the keys of a Secret that should not be random.

    Parts of an account at a service may be, if the service has them from the same Secret.
    """
    uses = [use for use in own if use.kind == "Secret" and use.name == name]
    _give_forms(name, uses, supplies)
    shared = {use.key for use in of_services if use.kind == "Secret" and use.name == name}
    made_up = [key for key, value in supplies.secrets.get(name, {}).items() if value is None]
    keys = [key for key in made_up if any(use.key in (None, key) for use in uses)]
    unfit = [key for key in keys if _is_like(_MEANINGFUL, key, uses)]
    if unfit:
        names = ", ".join(map(shown, unfit))
        supplies.to_do.append(
            f"a random text will hardly do for {names} of Secret/{shown(name)}: give a value for the build in "
            f"build.secrets.{shown(name)}"
        )
    account = [key for key in keys if key not in unfit and not shared & {None, key} and _is_like(_ACCOUNT, key, uses)]
    if account:
        names = ", ".join(map(shown, account))
        supplies.notes.append(
            f"{names} of Secret/{shown(name)} will be random: if a service of the build expects another value, give it "
            f"in build.secrets.{shown(name)}"
        )


def _give_forms(name: str, uses: Sequence[Use], supplies: Supplies) -> None:
    """Give a stand-in to each key whose name tells the form of its value, such as a switch or a public address."""
    keys = supplies.secrets.get(name, {})
    given = []
    for key in [key for key, value in keys.items() if value is None]:
        of_key = [use for use in uses if use.key in (None, key) and not use.as_file]
        names = [parted(text) for text in (key, *(use.place for use in of_key if use.key == key))]
        form = next((form for words, form in _FORMS if any(words.search(text) for text in names)), None)
        if of_key and form is not None:
            keys[key] = form
            given.append(key)
    if given:
        supplies.notes.append(
            f"{', '.join(map(shown, given))} of Secret/{shown(name)}: the build has a stand-in of the right form; if "
            f"the application needs more at its start, give it in build.secrets.{shown(name)}"
        )


def secret_keys(name: str, inputs: Inputs) -> list[str] | None:
    """Return the names of a Secret's keys, as far as an object of the input names them; None if none does."""
    if (secret := inputs.find("Secret", name)) is not None:
        keys = [*mapping_at(secret.value, "data"), *mapping_at(secret.value, "stringData")]
        return keys or (["tls.crt", "tls.key"] if secret.value.get("type") == _TLS else keys)
    for sealed in inputs.of_kind("SealedSecret"):
        if name in (sealed.name, mapping_at(sealed.value, "spec", "template", "metadata").get("name")):
            return list(mapping_at(sealed.value, "spec", "encryptedData"))
    for external in inputs.of_kind("ExternalSecret"):
        if name == mapping_at(external.value, "spec", "target").get("name", external.name):
            named = [item.get("secretKey") for item in blocks_at(external.value, "spec", "data")]
            return [key for key in named if isinstance(key, str)] or None
    return None


def _is_like(pattern: re.Pattern[str], key: str, uses: list[Use]) -> bool:
    names = [key, *(use.place for use in uses if use.key == key and not use.as_file)]
    return any(pattern.search(parted(name)) for name in names)


def _keys_of(uses: list[Use]) -> list[str]:
    return list(dict.fromkeys(use.key for use in uses if use.key is not None))


def _places(uses: list[Use]) -> str:
    return ", ".join(shown(place) for place in dict.fromkeys(use.place for use in uses))
