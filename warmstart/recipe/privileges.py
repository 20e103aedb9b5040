"""Privileges of a recipe's container that amount to root on the machine that runs it.

They come from the user who runs a command, never from a file alone: a recipe may be somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from warmstart.core.errors import PrivilegeError
from warmstart.core.privileges import (
    ORDINARY_CAPABILITIES,
    Kind,
    Privilege,
    list_options,
    list_refused,
    name_capability,
)
from warmstart.recipe.model import Recipe, SecurityContext

#: Capabilities that a recipe may add freely: an ordinary pod's, Docker's default NET_RAW, and those that reach only the
#: container's own processes. Any other, and any that a future kernel adds, must be allowed by name.
FREE_CAPABILITIES = ORDINARY_CAPABILITIES | {"IPC_LOCK", "LEASE", "NET_RAW", "SYS_NICE"}


def list_host_privileges(context: SecurityContext, path: str = "container") -> list[Privilege]:
    """List the privileges that let a container become root on the machine.

    Args:
        context: of the container.
        path: of the container in the recipe or manifest.
    """
    why = f"{path}.securityContext asks for it"
    added = sorted({name_capability(name) for name in context.capabilities_add} - FREE_CAPABILITIES)
    found = [Privilege(Kind.PRIVILEGED, why=why)] if context.privileged else []
    return found + [Privilege(Kind.CAPABILITY, name, why) for name in added]


def require_recipe_privileges(recipe: Recipe, allowed: Sequence[Privilege]) -> None:
    """Refuse a recipe whose container, services or init containers ask for a privilege the user has not allowed.

    Raises:
        PrivilegeError: one asks for more.
    """
    for path, context in list_contexts(recipe):
        require_host_privileges(context, allowed, path=path)


def list_contexts(recipe: Recipe) -> Iterator[tuple[str, SecurityContext]]:
    """List the security contexts of all containers that a recipe runs, with their paths."""
    yield "container", recipe.container.security_context
    for service in recipe.services:
        yield f"build.services[{service.name}].container", service.container.security_context
    for init in recipe.init:
        yield f"initContainers[{init.name}]", init.container.security_context


def require_host_privileges(context: SecurityContext, allowed: Sequence[Privilege], *, path: str = "container") -> None:
    """Refuse a container that asks for a privilege the user has not allowed.

    Raises:
        PrivilegeError: it asks for more; the hint has the options that allow it.
    """
    if missing := list_refused(list_host_privileges(context, path), allowed):
        names = [str(one) for one in missing]
        raise PrivilegeError(
            f"{path}.securityContext asks for privileges that make it root on this machine: {', '.join(names)}",
            hint=f"if you trust the recipe and its images, add: {' '.join(list_options(missing))}",
            refused=names,
        )
