"""The environment of a container: `envFrom`, then `env`, with the build's values in place of the cluster's.

Kubernetes' rules are those of makeEnvironmentVariables in pkg/kubelet/kubelet_pods.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from warmstart.core.yaml_document import KeyPath, shown
from warmstart.recipe.sources import Block, Report, Sources, resource_amount

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
#: Characters of an argument or a variable: MAX_ARG_STRLEN in Linux's include/uapi/linux/binfmts.h.
LONGEST = 1 << 17
_NAME = re.compile(r"[ -<>-~]+", re.ASCII)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with `$(NAME)` replaced by the variable's value and `$$` by `$`; an unknown name is left as it is.

    Kubernetes' rule for command, args and env (third_party/forked/golang/expansion). A result that is longer than a
    process can have is cut, but stays too long: variables of variables could fill the memory.
    """
    room = LONGEST + 1

    def replace(match: re.Match[str]) -> str:
        nonlocal room
        value = "$" if match[1] is None else variables.get(match[1], match[0])
        room -= len(value)
        return value if room + len(value) > 0 else ""

    # After the last parenthesis nothing is a reference; a search for its end would take the square of the length.
    end = text.rfind(")") + 1
    return _REFERENCE.sub(replace, text[:end]) + text[end:].replace("$$", "$")


def list_references(text: str) -> list[str]:
    """Return the names that `$(NAME)` refers to in a text."""
    found = _REFERENCE.finditer(text[: text.rfind(")") + 1])
    return [match[1] for match in found if match[1] is not None]


def find_variables(container: Block, sources: Sources, path: KeyPath, report: Report) -> dict[str, str]:
    """Return the variables of a container in order. A value can refer to those before it; of two, the last counts.

    Args:
        container: checked by the schema.
        sources: answers its references.
        path: of the container in the recipe.
        report: takes the path and the message of each problem.
    """
    variables: dict[str, str] = {}
    for index, block in enumerate(container.get("envFrom", [])):
        for key, value in _values_from(block, sources, (*path, "envFrom", index), report).items():
            name = block.get("prefix", "") + key
            if _NAME.fullmatch(name):
                variables[name] = _limit(value, (*path, "envFrom", index), report)
    for index, block in enumerate(container.get("env", [])):
        if "valueFrom" in block:
            where: KeyPath = (*path, "env", index, "valueFrom")
            found = _value_from(block["valueFrom"], container, sources, where, report)
        else:
            found = expand(block.get("value", ""), variables)
        if found is not None:
            variables[block["name"]] = _limit(found, (*path, "env", index), report)
    return variables


def _limit(value: str, path: KeyPath, report: Report) -> str:
    if len(value) > LONGEST:
        report(path, f"the value is longer than the {LONGEST >> 10} KiB that a process can have")
        return ""
    return value


def _values_from(block: Block, sources: Sources, path: KeyPath, report: Report) -> dict[str, str]:
    if "configMapRef" in block:
        reference: Any = block["configMapRef"]
        _, texts = sources.config_map(
            reference["name"], (*path, "configMapRef"), optional=reference.get("optional", False)
        )
        return dict(texts)
    reference, where = block["secretRef"], (*path, "secretRef")
    values = sources.secret(reference["name"], where, optional=reference.get("optional", False))
    return {key: _text(value, f"{reference['name']}.{key}", where, report) for key, value in values.items()}


def _value_from(block: Block, container: Block, sources: Sources, path: KeyPath, report: Report) -> str | None:
    """Return the value of a variable; None if it is optional and missing, or a problem."""
    ((kind, reference),) = block.items()
    where = (*path, kind)
    if kind == "fieldRef":
        return sources.field(reference["fieldPath"])
    if kind == "resourceFieldRef":
        return resource_amount(reference, container.get("resources", {}))
    if kind == "fileKeyRef":
        return sources.file_key(reference, where)
    name, key, optional = reference["name"], reference["key"], reference.get("optional", False)
    if kind == "configMapKeyRef":
        value = sources.config_key(name, key, where, optional=optional)
    else:
        value = sources.secret_key(name, key, where, optional=optional)
    return None if value is None else _text(value, f"{name}.{key}", where, report)


def _text(value: bytes, name: str, path: KeyPath, report: Report) -> str:
    """Return a value that a variable can have: UTF-8 without NUL."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        report(path, f"the value of {shown(name)} cannot be a variable: it is not UTF-8 text without NUL")
        return ""
    return text
