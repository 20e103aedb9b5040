"""Write YAML that all readers agree on: strings are quoted if kubectl or a YAML 1.1 parser would read another type."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from warmstart.core.yaml_document import plain_value


class _Representer(SafeRepresenter):
    """Writes strings so that every YAML reader takes them for strings, and those of several lines as blocks."""


def _represent_string(representer: SafeRepresenter, text: str) -> ScalarNode:
    quoted = not _is_printable(text) or not ("\n" in text or isinstance(plain_value(text), str))
    style = '"' if quoted else "|" if "\n" in text else None
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Representer.add_representer(str, _represent_string)


def write_yaml(*documents: Mapping[str, Any]) -> str:
    """The documents as YAML, in the order of their keys, one after the other with `---` between them.

    Characters that a terminal obeys or hides are escaped, then with all others outside of ASCII.
    """
    text = _write(documents, allow_unicode=True)
    return text if _is_printable(text) else _write(documents, allow_unicode=False)


def _is_printable(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def _write(documents: Sequence[Mapping[str, Any]], *, allow_unicode: bool) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_unicode = allow_unicode
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.representer.sort_base_mapping_type_on_output = False
    # Where a value stands twice, it is written twice.
    yaml.representer.ignore_aliases = lambda *_: True
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 1 << 16
    texts = []
    for document in documents:
        stream = io.StringIO()
        yaml.dump(document, stream)
        texts.append(stream.getvalue())
    return "---\n".join(texts)
