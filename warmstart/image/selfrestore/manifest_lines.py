"""Lines that a build adds to the launcher's manifest: variables to compare, files to unlock, steps after a restore.

The launcher's README describes their format; `launcher/src/variables.c` and `launcher/src/steps.c` use them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from signal import Signals
from urllib.parse import quote

from warmstart.core.errors import PreflightError, RecipeError
from warmstart.dump.criu.credentials import Credentials, number_capabilities
from warmstart.recipe.model import (
    METHODS_WITH_BODY,
    PID_REFERENCE,
    Exec,
    HttpGet,
    OnDifference,
    Signal,
    Step,
    is_late,
    is_own,
)

#: In a pod's environment: overrides the recipe's `onDifference`.
ON_DIFFERENCE = "WARMSTART_ON_DIFFERENCE"
#: A variable for a pod whose frozen variables cannot be the build's, such as secrets made up at random.
WARN = (ON_DIFFERENCE, str(OnDifference.WARN))

#: Capabilities for becoming another user, and for signals to its processes.
BECOMING_OTHERS = frozenset({"KILL", "SETGID", "SETUID"})

SALT_BYTES = 16
# Runtimes set it to the name of each container.
_HOSTNAME = "HOSTNAME"
# Headers that frame the message.
_OWN_HEADERS = frozenset({"connection", "content-length", "transfer-encoding"})
# Characters that a URL may contain unescaped (RFC 3986), and the percent sign of existing escapes.
_URL_CHARACTERS = "%/:?[]@!$&'()*+,;=~"


def escape_word(word: str) -> str:
    r"""Escape one of several words in a line: `\xHH` for bytes that are not printable ASCII, spaces and backslashes."""
    escaped = "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte != ord("\\") else f"\\x{byte:02x}" for byte in _encode(word)
    )
    return escaped or "\\"


def make_salt(identity: str) -> bytes:
    """Return the salt of a process with this identity: another one for each process, and the same for one checkpoint.

    Args:
        identity: as in `warmstart.dump.criu.fingerprint`: a digest of random bytes.
    """
    return hashlib.sha256(f"salt {identity}".encode()).digest()[:SALT_BYTES]


def describe_variables(
    environment: Mapping[str, str], late: Sequence[str], on_difference: OnDifference, salt: bytes
) -> list[str]:
    """Describe the variables of a build, without their values.

    Args:
        environment: all variables of the container and its image.
        late: names of variables that the application reads again after a restore; `*` for all.
        on_difference: response to a pod with another value.
        salt: of `make_salt`.
    """
    lines = [f"difference {on_difference}", f"salt {salt.hex()}"]
    lines += [f"late {escape_word(name)}" for name in late]
    for name, value in environment.items():
        if not is_late(name, late) and name != _HOSTNAME and not is_own(name):
            digest = hashlib.sha256(salt + _encode(f"{name}={value}")).hexdigest()
            lines.append(f"frozen {digest} {escape_word(name)}")
    return lines


def describe_needs(threads: Iterable[Credentials], user: int, group: int) -> list[str]:
    """Describe the capabilities that a restore needs, to become the users of an application, and to signal them.

    Args:
        threads: credentials of all threads in the dump.
        user, group: ids that the application starts with.
    """
    needed: set[str] = set()
    for thread in threads:
        if (thread.uid, thread.gid) != (user, group):
            needed |= BECOMING_OTHERS
            needed |= {"SETPCAP"} if dict(thread.capabilities)["permitted"] else set()
    return [f"needs {number_capabilities(needed)}"] if needed else []


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def describe_locked(paths: Sequence[str]) -> list[str]:
    """Describe the files that the launcher lets their owner open during a restore."""
    return [f"locked {escape_word(path)}" for path in paths]


def describe_expiry(moment: datetime | None) -> list[str]:
    """Describe when the image expires, if it does."""
    return [] if moment is None else [f"expires {int(moment.timestamp())}"]


def check_steps(steps: Sequence[Step | Signal]) -> None:
    """Check that the launcher can do these steps after a restore.

    Raises:
        PreflightError: it cannot do one.
    """
    for index, step in enumerate(steps):
        if isinstance(step, Step) and isinstance(step.action, HttpGet) and step.action.scheme.upper() != "HTTP":
            raise PreflightError(
                f"afterRestore[{index}].httpGet: an image that restores itself cannot make requests with TLS",
                hint="use the scheme HTTP on a port without TLS, or an exec step with a program of the image",
            )


def describe_steps(steps: Sequence[Step | Signal], pid: int) -> list[str]:
    """Describe the steps after a restore, in order.

    Args:
        steps: the steps, which have passed `check_steps`.
        pid: number of the application in its container, for commands that refer to it.
    """
    return [f"step {' '.join(_describe_step(step, pid))}" for step in steps]


def _describe_step(step: Step | Signal, pid: int) -> Iterator[str]:
    if isinstance(step, Signal):
        yield from ("signal", str(Signals[step.name].value))
        return
    limit_ms = str(max(1, round(step.timeout_s * 1000)))
    if isinstance(step.action, Exec):
        yield from ("exec", limit_ms)
        yield from (escape_word(word.replace(PID_REFERENCE, str(pid))) for word in step.action.command)
    else:
        yield from ("http", limit_ms, str(step.action.port), escape_word(step.action.host or "-"))
        yield escape_word(_write_request(step.action))


def _write_request(action: HttpGet) -> str:
    """Write the whole request. Redirects are not followed, and the connection ends with the response."""
    host = action.host or "localhost"
    given = [(name, value) for name, value in action.headers if name.lower() not in _OWN_HEADERS]
    names = {name.lower() for name, _ in given}
    defaults = {
        "Host": f"[{host}]:{action.port}" if ":" in host else f"{host}:{action.port}",
        "User-Agent": "warmstart",
    }
    headers = [*((name, value) for name, value in defaults.items() if name.lower() not in names), *given]
    headers += [("Connection", "close"), *([("Content-Length", "0")] if action.method in METHODS_WITH_BODY else [])]
    path = quote(action.path.partition("#")[0], safe=_URL_CHARACTERS)
    lines = [f"{action.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if any(character in line for line in lines for character in "\r\n\0"):
        raise RecipeError("afterRestore: a header of httpGet has a line break")
    return "\r\n".join([*lines, "", ""])
