"""The variables of a container, as far as the input has their values."""

from __future__ import annotations

from collections.abc import Iterator

from warmstart.recipe.init.inputs import Inputs
from warmstart.recipe.pods import Block, blocks_at, mapping_at


def list_variables(container: Block, inputs: Inputs) -> Iterator[tuple[str, str]]:
    """Yield the variables of a container whose values are in the manifest or in a ConfigMap of the input."""
    for item in blocks_at(container, "envFrom"):
        found = inputs.find("ConfigMap", str(mapping_at(item, "configMapRef").get("name")))
        prefix = item.get("prefix") if isinstance(item.get("prefix"), str) else ""
        for key, value in mapping_at(found.value, "data").items() if found else ():
            if isinstance(value, str):
                yield f"{prefix}{key}", value
    for item in blocks_at(container, "env"):
        reference = mapping_at(item, "valueFrom", "configMapKeyRef")
        found = inputs.find("ConfigMap", str(reference.get("name"))) if reference else None
        value = mapping_at(found.value, "data").get(str(reference.get("key"))) if found else item.get("value")
        if isinstance(item.get("name"), str) and isinstance(value, str):
            yield item["name"], value
