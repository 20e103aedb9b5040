"""Find the hosts that a container refers to: in its variables, its command, and in configuration that it reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*\.?"
_HOST = re.compile(_NAME)
_HOST_PORT = re.compile(rf"(?P<host>{_NAME}):(?P<port>[0-9]{{1,5}})(?:/[^\s,]*)?")
_URL = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.:-]{0,40})://(?:[^\s/@'\"]{0,200}@)?(?P<hosts>[^\s/?#;'\"<>()]{1,1000})"
)
_THIN = re.compile(rf"jdbc:oracle:thin:[^\s@]{{0,200}}@(?://)?(?P<host>{_NAME})(?::(?P<port>[0-9]{{1,5}}))?")
_ASSIGNED = re.compile(
    rf"(?:^|[;\s])(?:Server|Host|Data Source|Address|Addr|host)\s{{0,3}}=\s{{0,3}}(?:tcp:)?(?P<host>{_NAME})"
    r"(?:[,:](?P<port>[0-9]{1,5}))?",
    re.IGNORECASE,
)
_DOTNET_PORT = re.compile(r"(?:^|[;\s])Port\s{0,3}=\s{0,3}([0-9]{1,5})", re.IGNORECASE)
_SWITCHES = r"(?:\s+-\S+(?:\s+[0-9]+(?=\s+[^\s0-9]))?)*"
_CLIENTS = r"pg_isready|psql|mysqladmin|mysql|redis-cli|mongosh?"
_IN_COMMANDS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?:nc|ncat|netcat|telnet)\b{_SWITCHES}\s+(?P<host>{_NAME})\s+(?P<port>[0-9]{{1,5}})",
        rf"\b(?:nslookup|getent\s+(?:hosts|ahosts)|host|dig(?:\s+\+\S+)*)\s+(?P<host>{_NAME})",
        rf"\b(?:{_CLIENTS})\b[^;|&\n]{{0,120}}?\s(?:-h\s*|--host[= ])(?P<host>{_NAME})",
        rf"/dev/tcp/(?P<host>{_NAME})/(?P<port>[0-9]{{1,5}})",
        rf"(?<![\w./:@-])(?P<host>{_NAME}):(?P<port>[0-9]{{2,5}})(?![\w.])",
    )
)
_HOST_VARIABLE = re.compile(
    r"(?:HOST|HOSTNAME|HOSTS|ADDR|ADDRESS|ADDRESSES|SERVERS?|ENDPOINTS?|BROKERS?|NODES|BOOTSTRAP|SVC|SERVICE|DNS|QUORUM"
    r"|CONTACT_?POINTS?)\Z"
)
# Not the name of another host: the container's own, an address, or the protocol of a port.
_LOCAL = re.compile(r"(?:tcp|udp|https?|unix|file|localhost|ip6-localhost|127(?:\.[0-9]+){3}|0\.0\.0\.0|[0-9.]+)\.?")
_REFERENCE = re.compile(r"\$\((\w+)\)|\$\{(\w+)(?::?-[^}]*)?\}|\$(\w+)")


@dataclass(frozen=True)
class HostUse:
    """A host that a container refers to.

    Attributes:
        host: the name, in lower case, without a dot at its end.
        port: its port; None if it is not given.
        scheme: the first part of an URL's scheme, without jdbc, such as `postgresql`; empty if there is none.
        place: the text for people, such as `the variable DB_HOST`.
        variable: the variable's name; empty in commands and files.
        waited: whether an init container waits for it.
    """

    host: str
    port: int | None
    scheme: str
    place: str
    variable: str = ""
    waited: bool = False


@dataclass(frozen=True)
class Text:
    """A text of a container in which hosts are looked for.

    `kind` is `variable`, `command` or `file`.
    """

    kind: str
    value: str
    place: str
    variable: str = ""
    waited: bool = False


def expand(text: str, variables: dict[str, str]) -> str:
    """Return a text with the variables of Kubernetes and of a shell replaced; unknown ones stay."""
    return _REFERENCE.sub(lambda match: variables.get(match[1] or match[2] or match[3], match[0]), text)


def find_hosts(text: Text) -> Iterator[HostUse]:
    """Find the hosts in a text, without those of the container itself."""
    for host, port, scheme in _find(text):
        name = host.lower().rstrip(".")
        if name and not _LOCAL.fullmatch(name):
            number = int(port) if port and 0 < int(port) < 65536 else None
            yield HostUse(name, number, scheme, text.place, text.variable, text.waited)


Found = tuple[str, str, str]


def _find(text: Text) -> Iterator[Found]:
    yield from _in_urls(text.value)
    rest = _URL.sub(" ", text.value)
    if text.kind == "command":
        for pattern in _IN_COMMANDS:
            for match in pattern.finditer(rest):
                yield match["host"], match.groupdict().get("port") or "", ""
    elif text.kind == "variable":
        yield from _in_value(text.variable, rest.strip())
    for match in _ASSIGNED.finditer(rest if text.kind == "variable" else ""):
        port = _DOTNET_PORT.search(rest)
        yield match["host"], match["port"] or (port[1] if port else ""), ""


def _in_urls(value: str) -> Iterator[Found]:
    for match in _THIN.finditer(value):
        yield match["host"], match["port"] or "1521", "oracle"
    for match in _URL.finditer(value):
        parts = [part for part in re.split(r"[:+]", match["scheme"].lower()) if part not in ("", "jdbc")]
        # jdbc:postgresql, jdbc:mysql:loadbalance, mongodb+srv, postgresql+psycopg
        scheme = parts[0] if parts else ""
        for part in match["hosts"].split(","):
            # The other hosts of a list may have user names again.
            host, _, port = part.rpartition("@")[2].partition(":")
            if _HOST.fullmatch(host):
                yield host, port if port.isdigit() else "", scheme


def _in_value(variable: str, value: str) -> Iterator[Found]:
    """Hosts in a value that is nothing else: `db`, `db:5432`, or a list of these."""
    parts = [part.strip() for part in re.split(r"[,;\s]+", value) if part.strip()]
    pairs = [_HOST_PORT.fullmatch(part) for part in parts]
    if parts and all(pairs):
        for match in pairs:
            assert match is not None
            yield match["host"], match["port"], ""
    elif parts and _HOST_VARIABLE.search(re.sub(r"[^A-Z0-9]+", "_", _upper(variable))):
        for part in parts:
            if _HOST.fullmatch(part) and not part.isdigit():
                yield part, "", ""


def _upper(name: str) -> str:
    """Return a name in upper case with its words parted: `dbHost` and `spring.data.redis.host` too."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper().rstrip("_")
