"""Privileges of a container that amount to root on the machine that runs it, by the names that `--allow` takes.

They come from the user who runs a command, never from a file alone: a recipe may be somebody else's.
"""

from __future__ import annotations

from collections.abc import Collection

from warmstart.core.errors import RecipeError
from warmstart.recipe.model import SecurityContext

PRIVILEGED = "privileged"
CAPABILITY = "capability="
# Capabilities that a container may add as it likes: those that Docker gives to every container, and those that reach
# only its own processes. Any other, and any that a future kernel brings, has to be allowed by name.
_USUAL = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID"
)
_OWN = "IPC_LOCK LEASE SYS_CHROOT SYS_NICE"
FREE_CAPABILITIES = frozenset(f"{_USUAL} {_OWN}".split())


def find_privileges(context: SecurityContext) -> tuple[str, ...]:
    """The names of the privileges that a container asks for, such as `privileged` or `capability=SYS_ADMIN`."""
    added = sorted({name.upper().removeprefix("CAP_") for name in context.capabilities_add} - FREE_CAPABILITIES)
    return (*([PRIVILEGED] if context.privileged else []), *(f"{CAPABILITY}{name}" for name in added))


def parse_privilege(text: str) -> str:
    """A privilege as `--allow` takes it.

    Raises:
        RecipeError: there is no such privilege.
    """
    kind, separator, name = text.partition("=")
    if text == PRIVILEGED:
        return text
    if kind + separator == CAPABILITY and name.replace("_", "").isalnum():
        return f"{CAPABILITY}{name.upper().removeprefix('CAP_')}"
    raise RecipeError(f"--allow {text}: expected {PRIVILEGED}, or {CAPABILITY}NAME such as {CAPABILITY}SYS_ADMIN")


def require_allowed(context: SecurityContext, allowed: Collection[str], *, path: str = "container") -> None:
    """Refuse a container that asks for a privilege which the user has not allowed.

    `allowed` has names as `find_privileges` gives them; `privileged` includes every capability, and the capability
    ALL every other.

    Raises:
        RecipeError: it asks for more; the hint has the options that allow it.
    """
    missing = [name for name in find_privileges(context) if not _is_allowed(name, allowed)]
    if missing:
        brief = f"{path}.securityContext asks for privileges that make it root on this machine: {', '.join(missing)}"
        options = " ".join(f"--allow {name}" for name in missing)
        raise RecipeError(brief, hint=f"if you trust the recipe and its images, add: {options}")


def _is_allowed(name: str, allowed: Collection[str]) -> bool:
    wider = {PRIVILEGED, f"{CAPABILITY}ALL"} if name.startswith(CAPABILITY) else {PRIVILEGED}
    return name in allowed or not wider.isdisjoint(allowed)
