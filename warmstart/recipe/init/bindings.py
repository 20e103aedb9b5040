"""Values of Secrets that are about a service of the build: its host, port, or address, and the account there.

The values are made from the names and the accounts of the build's services; no value of a Secret is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from warmstart.core.yaml_document import shown
from warmstart.recipe.init.inputs import Inputs
from warmstart.recipe.init.kinds import ServiceKind, is_kind, kind_of_container, kind_of_use, parted
from warmstart.recipe.init.needs import Use, secret_keys
from warmstart.recipe.init.probes import list_target_ports
from warmstart.recipe.init.services import FoundService
from warmstart.recipe.init.variables import list_variables
from warmstart.recipe.init.waiting import words_of
from warmstart.recipe.pods import Block, blocks_at, mapping_at

#: Values by the name of a Secret and its key.
Values = dict[str, dict[str, str]]

_PARTS = (
    ("host", re.compile(r"(?:^|-)host(?:-?name)?$")),
    ("port", re.compile(r"(?:^|-)port$")),
    ("url", re.compile(r"ur[il]$")),
    ("address", re.compile(r"(?:^|-)(?:addr(?:ess)?|servers?|brokers?|endpoint)$")),
    ("user", re.compile(r"user(?:-?name)?$")),
    ("password", re.compile(r"pass(?:word|wd)?$|pwd$")),
    ("database", re.compile(r"(?:^|-)(?:database|(?:db|database)-?name|db)$")),
)
_JDBC = re.compile(r"jdbc|datasource")
# Another account than the one that an application usually has.
_ROOT = re.compile(r"root|admin")
_OTHER_URLS = re.compile(r"r2dbc|proxy|ssl|health|admin")
# Parts of an account: the variables that the images of services have for them, and the build's own texts.
_USERS = ("POSTGRES_USER", "MYSQL_USER", "MARIADB_USER", "MONGO_INITDB_ROOT_USERNAME", "RABBITMQ_DEFAULT_USER")
_PASSWORDS = (
    "POSTGRES_PASSWORD", "MYSQL_PASSWORD", "MARIADB_PASSWORD", "MYSQL_ROOT_PASSWORD", "MARIADB_ROOT_PASSWORD",
    "MONGO_INITDB_ROOT_PASSWORD", "RABBITMQ_DEFAULT_PASS", "REDIS_PASSWORD",
)  # fmt: skip
_DATABASES = ("POSTGRES_DB", "MYSQL_DATABASE", "MARIADB_DATABASE", "MONGO_INITDB_DATABASE")
_OF_BUILD = {"user": "app", "password": "build-only", "database": "app"}
# The users of services that name none.
_DEFAULT_USERS = {"PostgreSQL": "postgres", "MySQL": "root", "MariaDB": "root", "RabbitMQ": "guest"}


@dataclass
class _Account:
    user: str = ""
    password: str = ""
    database: str = ""
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """A service that Secrets are about, and the input does not have.

    Attributes:
        kind: its kind.
        host: a name for it.
        places: the keys, for people.
        values: of the keys, if it gets this name and has no account.
    """

    kind: ServiceKind
    host: str
    places: list[str] = field(default_factory=list)
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class _Location:
    """A key of a Secret that says where a service is; `part` is one of `_PARTS`, `name` its names in one text."""

    secret: str
    key: str
    variable: str
    part: str
    name: str
    kind: ServiceKind


def bind(uses: Iterable[Use], found: Sequence[FoundService], inputs: Inputs) -> Values:
    """Return values for the keys of Secrets that are about one of the services.

    Of several services of a kind none is chosen.
    """
    values: Values = {}
    for one in _list_locations(uses, inputs):
        fitting = [service for service in found if is_kind(_kind_of(service), one.kind)]
        if len(fitting) == 1:
            for owner, pairs in _values_of(one, fitting[0], inputs).items():
                of_secret = values.setdefault(owner or one.secret, {})
                of_secret.update({pair or one.key: value for pair, value in pairs.items()})
    return values


def find_wanted(uses: Iterable[Use], found: Sequence[FoundService], inputs: Inputs) -> list[Wanted]:
    """Find the services that Secrets are about, and no workload of the input is."""
    there = [kind_of_container(container.block) for one in inputs.objects for container in one.containers]
    there += map(_kind_of, found)
    wanted: dict[str, Wanted] = {}
    for one in _list_locations(uses, inputs):
        if one.part in _OF_BUILD or not one.kind.image or any(is_kind(kind, one.kind) for kind in there):
            continue
        host = one.kind.name.lower()
        of_kind = wanted.setdefault(host, Wanted(one.kind, host))
        of_kind.places.append(f"{one.variable} of Secret/{shown(one.secret)}")
        login = "guest:guest@" if one.kind.name == "RabbitMQ" else ""
        texts = {"host": host, "port": str(one.kind.port), "address": f"{host}:{one.kind.port}"}
        if one.kind.schemes and not one.kind.env and not _OTHER_URLS.search(one.name):
            texts["url"] = f"{one.kind.schemes[0]}://{login}{host}:{one.kind.port}"
        if one.part in texts:
            of_kind.values.setdefault(one.secret, {})[one.key] = texts[one.part]
    return list(wanted.values())


def _list_locations(uses: Iterable[Use], inputs: Inputs) -> Iterator[_Location]:
    for secret, key, variable in _list_keys(uses, inputs):
        name = parted(f"{variable}-{key}")
        part = next((part for part, words in _PARTS for text in (variable, key) if words.search(parted(text))), None)
        kind = kind_of_use("", None, "", name)
        if part is not None and kind is not None:
            yield _Location(secret, key, variable, part, name, kind)


def _list_keys(uses: Iterable[Use], inputs: Inputs) -> Iterator[tuple[str, str, str]]:
    """Yield each key of a Secret that becomes a variable, with the Secret's name and the variable's."""
    for use in uses:
        if use.kind == "Secret" and not use.as_file:
            for key in [use.key] if use.key is not None else secret_keys(use.name, inputs) or []:
                yield use.name, key, use.place if use.key is not None else key


def _kind_of(found: FoundService) -> ServiceKind | None:
    return kind_of_container(found.provider.block)


def _values_of(one: _Location, found: FoundService, inputs: Inputs) -> Values:
    """Return the value of a key, with empty names for its Secret and itself, and values that it depends on."""
    part, name = one.part, one.name
    if part in _OF_BUILD:
        return _account_values(one, found, inputs)
    host, kind = found.service.name, _kind_of(found)
    port = next(list_target_ports(found.service.value, found.provider.block), kind.port if kind else 0)
    if part == "host":
        return {"": {"": host}}
    if part == "port" and port:
        return {"": {"": str(port)}}
    if part == "address" and port:
        return {"": {"": f"{host}:{port}"}}
    if part != "url" or kind is None or not kind.schemes or not port or _OTHER_URLS.search(name):
        return {}
    account = _read_account(kind, found.provider.block, inputs)
    if account is None:
        return {}
    if _JDBC.search(name):
        return {"": {"": f"jdbc:{kind.schemes[0]}://{host}:{port}/{account.database}"}, **account.values}
    login = quote(account.user, safe="") + (f":{quote(account.password, safe='')}" if account.password else "")
    path = f"/{account.database}" if account.database else ""
    if kind.name == "MongoDB" and login:
        path = f"{path or '/'}?authSource=admin"
    return {"": {"": f"{kind.schemes[0]}://{login}{'@' if login else ''}{host}:{port}{path}"}, **account.values}


def _account_values(one: _Location, found: FoundService, inputs: Inputs) -> Values:
    """Return the value of a part of an account, unless the service has it from the very same key."""
    kind = _kind_of(found)
    account = _read_account(kind, found.provider.block, inputs) if kind and not _ROOT.search(one.name) else None
    text = getattr(account, one.part) if account else ""
    if account is None or not text or one.key in account.values.get(one.secret, {}):
        return {}
    return {"": {"": text}, **account.values}


def _read_account(kind: ServiceKind, service: Block, inputs: Inputs) -> _Account | None:
    """Return the account that a service makes when it starts; None if it has a password that cannot be told."""
    if kind.name == "Redis" and not _has_known_password(service, inputs):
        return None
    account = _Account(user=_DEFAULT_USERS.get(kind.name, ""))
    if kind.name == "RabbitMQ":
        account.password = "guest"  # noqa: S105 - the image's own
    known = dict(list_variables(service, inputs))
    for part, names in (("user", _USERS), ("password", _PASSWORDS), ("database", _DATABASES)):
        for name in names:
            if name in known:
                setattr(account, part, known[name])
                break
            if (source := _find_secret(service, name, inputs)) is not None:
                secret, key = source
                setattr(account, part, account.values.setdefault(secret, {}).setdefault(key, _OF_BUILD[part]))
                break
    if kind.name == "PostgreSQL":
        account.database = account.database or account.user
    return account


def _has_known_password(redis: Block, inputs: Inputs) -> bool:
    """Tell whether a Redis has no password, or that of REDIS_PASSWORD, which only some images read by themselves."""
    command = " ".join(words_of(redis))
    if "REDIS_PASSWORD" in _names(redis, inputs):
        return "REDIS_PASSWORD" in command or "bitnami" in str(redis.get("image"))
    return "requirepass" not in command


def _names(service: Block, inputs: Inputs) -> list[str]:
    items = [str(item.get("name")) for item in blocks_at(service, "env")]
    for item in blocks_at(service, "envFrom"):
        items += secret_keys(str(mapping_at(item, "secretRef").get("name")), inputs) or []
    return items


def _find_secret(service: Block, name: str, inputs: Inputs) -> tuple[str, str] | None:
    """Return the Secret and the key that a variable has its value from."""
    for item in blocks_at(service, "env"):
        source = mapping_at(item, "valueFrom", "secretKeyRef")
        if item.get("name") == name and isinstance(source.get("name"), str) and isinstance(source.get("key"), str):
            return source["name"], source["key"]
    for item in blocks_at(service, "envFrom"):
        secret, prefix = mapping_at(item, "secretRef").get("name"), item.get("prefix") or ""
        keys = secret_keys(secret, inputs) if isinstance(secret, str) else None
        if isinstance(secret, str) and (key := next((key for key in keys or [] if f"{prefix}{key}" == name), None)):
            return secret, key
    return None
