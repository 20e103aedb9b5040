"""The public interface of oras is all that warmstart uses."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import oras.provider
import pytest

import warmstart


def find_private(source: str) -> list[str]:
    """Return the private attributes that are read from oras or from an object of it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            words = ast.unparse(node.value).split("(")[0].split(".")
            if words[0] == "oras" or "_oras" in words:
                found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "oras":
            found += [name.name for name in node.names if name.name.startswith("_")]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "oras.provider._x",
        "oras.provider.Registry.do_request.__wrapped__",
        "oras.provider.Registry()._tls_verify",
        "self._oras._auths",
        "from oras.provider import _x",
    ],
)
def test_private_attributes_are_found(source):
    assert find_private(source)


def test_no_private_attribute_of_oras_is_used():
    root = Path(warmstart.__file__).parent
    assert {path.name: found for path in root.rglob("*.py") if (found := find_private(path.read_text()))} == {}


def test_the_public_interface_of_oras_is_enough():
    send = inspect.unwrap(oras.provider.Registry.do_request)
    assert list(inspect.signature(send).parameters)[:3] == ["self", "url", "method"]
    assert {"data", "headers", "stream"} <= set(inspect.signature(send).parameters)
    registry = oras.provider.Registry("registry.example.com", insecure=True)
    assert {"session", "auth"} <= set(vars(registry))
