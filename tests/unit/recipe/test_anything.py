"""Whatever is in a file or on the command line: it makes a recipe, or it is an error of its kind."""

import copy
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.pod_recipe import OBJECTS, POD_RECIPE

from warmstart.core.errors import ImageReferenceError, InputError, ManifestError, RecipeError
from warmstart.core.yaml_document import KeyPath, dotted, read_document, read_documents
from warmstart.recipe.init.image import ImageConfig, propose_from_image
from warmstart.recipe.init.inputs import read_inputs
from warmstart.recipe.init.manifest import InitOptions, propose_recipe
from warmstart.recipe.init.text import Proposal
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.model import Recipe
from warmstart.recipe.reference import EXAMPLE
from warmstart.recipe.schema import schema_text

VALID: dict[str, Any] = read_document(EXAMPLE, "example").value
PATHS: list[KeyPath] = [path for path in read_document(EXAMPLE, "example").places if path]
POD: dict[str, Any] = read_document(POD_RECIPE, "pod").value
POD_PATHS: list[KeyPath] = [path for path in read_document(POD_RECIPE, "pod").places if path]
OBJECT_VALUES: list[Any] = [one.value for one in read_documents(OBJECTS, "objects")]
OBJECT_PATHS: list[KeyPath] = [
    (index, *path) for index, one in enumerate(read_documents(OBJECTS, "objects")) for path in one.places if path
]
KEY_PATHS = [path for path in PATHS if isinstance(path[-1], str)]
KEYS = sorted(set(re.findall(r'"([A-Za-z-]+)": \{', schema_text())))

# Much of this is one character from being YAML, and some of it is.
PIECES = [": ", "- ", "\n  ", "---", "...", "*a", "&a", "!!int", "0", "é", *":-,[]{}&*!|>'\"%@`#?~ \n\t\0\x85\ufeff"]
YAML_TEXT = st.lists(st.sampled_from([*KEYS, *PIECES]), max_size=30).map("".join)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(
        [1e64, 10**64, "8080", "http", "512Mi", "1e99999", "runtime", "TCP", "/", "a:b@c", "$($(A", "x" * 500]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=4),
    max_leaves=12,
)

# How long an example takes says nothing on a machine with other things to do.
unhurried = settings(deadline=None)


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory, "file.yaml")


def outcome(load: Callable[[], object], expected: type[InputError] = RecipeError) -> object:
    """What it returns, or None for an error that is fit to be shown."""
    try:
        return load()
    except expected as error:
        for line in (error.brief, *error.details):
            assert "\n" not in line
            line.encode()  # no half of a surrogate pair, which a terminal could not be sent
        return None


def with_value(path: KeyPath, value: object, valid: dict[str, Any] = VALID) -> dict[str, Any]:
    """The valid recipe with another value at this path, which may be new at its end."""
    document = copy.deepcopy(valid)
    holder: Any = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return document


@unhurried
@given(data=st.binary(max_size=60) | YAML_TEXT.map(str.encode))
def test_any_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    assert outcome(lambda: load_recipe(file)) is None


@unhurried
@given(value=VALUES)
def test_any_document(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))
    assert outcome(lambda: load_recipe(file)) is None


@unhurried
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_a_recipe_with_any_value_anywhere(file: Path, path: KeyPath, value: object) -> None:
    file.write_text(json.dumps(with_value(path, value)))
    assert isinstance(outcome(lambda: load_recipe(file)), Recipe | None)


@unhurried
@given(path=st.sampled_from(POD_PATHS), value=VALUES)
def test_a_recipe_of_a_pod_with_any_value_anywhere(file: Path, path: KeyPath, value: object) -> None:
    file.write_text(json.dumps(with_value(path, value, POD)))
    file.with_name("k8s.yaml").write_bytes(OBJECTS)
    loaded = outcome(lambda: load_recipe(file))
    assert isinstance(loaded, Recipe | None)
    if loaded is not None:
        assert parse_recipe(loaded.document, "again").document == loaded.document


@unhurried
@given(path=st.sampled_from(OBJECT_PATHS), value=VALUES)
@example(path=(1, "spec", "template", "spec", "volumes", 0, "name"), value=[])
def test_any_value_anywhere_in_the_objects(file: Path, path: KeyPath, value: object) -> None:
    document = with_value(path[1:], value, OBJECT_VALUES[path[0]])
    others = [one for index, one in enumerate(OBJECT_VALUES) if index != path[0]]
    file.write_bytes(POD_RECIPE)
    file.with_name("k8s.yaml").write_text("---\n".join(json.dumps(one) + "\n" for one in [document, *others]))
    assert isinstance(outcome(lambda: load_recipe(file)), Recipe | None)


@unhurried
@given(path=st.sampled_from(KEY_PATHS), key=st.sampled_from(KEYS), value=VALUES)
def test_a_recipe_with_any_key_anywhere(file: Path, path: KeyPath, key: str, value: object) -> None:
    file.write_text(json.dumps(with_value((*path[:-1], key), value)))
    assert isinstance(outcome(lambda: load_recipe(file)), Recipe | None)


@unhurried
@given(
    path=st.sampled_from([dotted(path) for path in PATHS]) | YAML_TEXT,
    value=YAML_TEXT | st.text(max_size=5) | VALUES.map(json.dumps),
    tag=st.none() | YAML_TEXT,
)
def test_any_override_and_tag(file: Path, path: str, value: str, tag: str | None) -> None:
    file.write_text(EXAMPLE)
    loaded = outcome(lambda: load_recipe(file, overrides=[f"{path}={value}"], tag=tag))
    assert isinstance(loaded, Recipe | None)


def assert_it_loads(proposal: object, file: Path) -> None:
    """Assert that a proposed recipe loads, or says why it does not."""
    if proposal is not None:
        assert isinstance(proposal, Proposal)
        file.write_text(proposal.text)
        if not proposal.to_do:
            load_recipe(file)


@unhurried
@given(
    image=st.sampled_from(["a", "a/b:c"]) | st.text(max_size=8),
    words=st.lists(st.text(max_size=8), max_size=3),
    ports=st.lists(st.from_regex(r"[0-9]{1,6}(/(tcp|udp|sctp|x))?", fullmatch=True) | st.text(max_size=4), max_size=3),
)
def test_a_recipe_from_any_image_loads(file: Path, image: str, words: list[str], ports: list[str]) -> None:
    config = ImageConfig(tuple(words), tuple(words), tuple(ports), tuple(words), "".join(words))
    assert_it_loads(outcome(lambda: propose_from_image(image, config), ImageReferenceError), file)


@unhurried
@given(
    path=st.sampled_from([path[1:] for path in PATHS if path[0] == "container" and len(path) > 1]),
    value=VALUES,
    pod=st.dictionaries(st.sampled_from([*KEYS, "hostNetwork", "initContainers"]), VALUES, max_size=3),
    name=st.text(max_size=5),
)
def test_a_recipe_from_any_manifest_loads(
    file: Path, path: KeyPath, value: object, pod: dict[str, Any], name: str
) -> None:
    container = with_value(("container", *path), value)["container"]
    manifest = {"kind": name, "metadata": {"name": name}, "spec": {**pod, "containers": [container]}}
    file.write_text(json.dumps(manifest))
    assert_it_loads(outcome(lambda: propose_recipe(read_inputs(file), InitOptions()), ManifestError), file)
