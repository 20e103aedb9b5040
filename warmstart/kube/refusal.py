"""Refusals of an API server or a kubelet, and the missing right.

Messages: `forbiddenMessage` in staging/src/k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go of
kubernetes/kubernetes, and `InstallAuthFilter` in pkg/kubelet/server/server.go.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence

from warmstart.core.errors import ClusterError
from warmstart.core.text import printable

_FORBIDDEN = re.compile(r'cannot (\w+) resource \\*"([^"\\]+)\\*" in API group \\*"([^"\\]*)\\*"')
_IN_NAMESPACE = re.compile(r'in the namespace \\*"([^"\\]+)\\*"')
_MOST_CHARS = 1 << 16
# A whole object in Go's notation, before the problem.
_INVALID_VALUE = re.compile(r"Invalid value: \{.*\}(?=: )")
_KUBELET_FORBIDDEN = re.compile(r"verb=(\w+), resource=(\w+), subresource(?:\(s\))?=\[?(\w+)")


class RefusedError(ClusterError):
    """The API server or a kubelet refused a request.

    Attributes:
        status: of HTTP.
        needs: the missing right in terms of RBAC, such as `create nodes/proxy`; empty if there is another reason.
    """

    def __init__(self, status: int, brief: str, *, needs: str = "", details: Sequence[str] = ()) -> None:
        hint = f"needs: {needs}; `warmstart rbac` prints roles that have it" if needs else ""
        super().__init__(brief, details=details, hint=hint)
        self.status = status
        self.needs = needs


def make_refusal(status: int, body: str, what: str) -> RefusedError:
    """Return the error for an HTTP answer: a Status of the API, or plain text, as a kubelet writes.

    Args:
        status: of HTTP.
        body: of the answer.
        what: the failed request, such as `GET /api/v1/pods`.
    """
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        body = str(json.loads(body)["message"])
    body = body[:_MOST_CHARS]
    said = _INVALID_VALUE.sub("Invalid value: {…}", body).strip().splitlines()
    first, *rest = map(printable, said or [f"HTTP {status}"])
    return RefusedError(status, f"could not {what}: {first}", needs=find_needs(body), details=rest[:20])


def find_needs(message: str) -> str:
    """Return the right that a message of an API server or a kubelet names, such as `create nodes/proxy`."""
    if found := _FORBIDDEN.search(message):
        verb, resource, group = found.groups()
        where = _IN_NAMESPACE.search(message)
        needs = f"{verb} {resource}" + (f".{group}" if group else "")
        return f"{needs} in the namespace {where[1]}" if where else needs
    if found := _KUBELET_FORBIDDEN.search(message):
        verb, resource, part = found.groups()
        return f"{verb} {resource}/{part}"
    return ""


@contextlib.contextmanager
def ignoring_absence() -> Iterator[None]:
    """Ignore that an object is gone: 404, and 409, the answer if another object has the name."""
    try:
        yield
    except RefusedError as refusal:
        if refusal.status not in (404, 409):
            raise
