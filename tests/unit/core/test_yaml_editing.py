"""Single values are changed in a text, and every other character stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.core.errors import InputError
from warmstart.core.yaml_document import read_document, read_documents
from warmstart.core.yaml_editing import append_item, delete_key, set_value, split_documents

BLOCK = """\
# head
a:   1   # one
b:
    c: 'x'   # quoted
    d:
    - p   # first
    # end of b

# about e
e: {f: 1,   g: [x]}   # flow
h:
i: |
    two
    lines
"""


def read(text: str):
    return read_documents(text, "text")[0].value


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (("a",), 2, "a:   1   # one", "a:   2   # one"),
        (("a",), "yes", "a:   1   # one", 'a:   "yes"   # one'),
        (("b", "c"), "it's", "c: 'x'   # quoted", "c: 'it''s'   # quoted"),
        (("b", "d", 0), "q", "- p   # first", "- q   # first"),
        (("b", "d"), ["q", {"r": {}}], "- p   # first", "- q\n    - r: {}   # first"),
        (
            ("b", "new"),
            {"o": [1, {"p": "x: y"}]},
            "- p   # first\n",
            '- p   # first\n    new:\n        o:\n        - 1\n        - p: "x: y"\n',
        ),
        (("e", "f"), "a:b", "f: 1,", 'f: "a:b",'),
        (("e", "new", "o"), [True, None], "g: [x]}", "g: [x], new: {o: [true, null]}}"),
        (("h",), 3, "h:\n", "h: 3\n"),
        (("h", "new"), 3, "h:\n", "h:\n    new: 3\n"),
        (("i",), "one", "|\n    two\n    lines\n", "one\n"),
        (("new",), 3, "    lines\n", "    lines\nnew: 3\n"),
    ],
)
def test_a_value_is_written_in_the_style_around_it(path, value, old, new) -> None:
    assert BLOCK.count(old) == 1
    assert set_value(BLOCK, path, value) == BLOCK.replace(old, new)


@pytest.mark.parametrize("value", ["a\n\U0001f600", "\ufeff\U000e0001", "\x85\u2028\x7f", 'a"\\b\n'])
def test_characters_of_any_kind_are_read_back(value) -> None:
    text = set_value("a: 1\n", ("b",), value)
    assert all(one.isprintable() or one == "\n" for one in text)
    # kubectl refuses the halves of a character as escapes.
    assert "\\ud" not in text
    assert read_document(text.encode(), "x").value == {"a": 1, "b": value}


def test_a_new_key_goes_to_its_place() -> None:
    assert set_value(BLOCK, ("new",), 1, before="e") == BLOCK.replace("# about e", "new: 1\n# about e")
    assert set_value(BLOCK, ("b", "new"), 1, after="c") == BLOCK.replace("# quoted\n", "# quoted\n    new: 1\n")
    assert set_value(BLOCK, ("e", "new"), 1, after="f") == BLOCK.replace("f: 1,", "f: 1, new: 1,")
    # Where the key that it should follow is not there, it is the last one.
    assert set_value(BLOCK, ("e", "new"), 1, after="z") == BLOCK.replace("[x]}", "[x], new: 1}")


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (("a",), "a:   1   # one\n", ""),
        (("b", "c"), "c: 'x'   # quoted\n    ", ""),
        (("b", "d"), "    d:\n    - p   # first\n", ""),
        (("e", "f"), "f: 1,   ", ""),
        (("e", "g"), ",   g: [x]", ""),
        (("i",), "i: |\n    two\n    lines\n", ""),
    ],
)
def test_a_key_is_deleted_with_its_value(path, old, new) -> None:
    after = delete_key(BLOCK, path)
    if path != ("a",):
        assert after == BLOCK.replace(old, new)
    assert path[-1] not in json.dumps([*read(after), *(read(after).get("b") or {}), *read(after)["e"]])


def test_the_only_key_leaves_an_empty_mapping() -> None:
    assert delete_key("a:\n  b: 1\nc: 2\n", ("a", "b")) == "a:\n  {}\nc: 2\n"
    assert delete_key("a: {b: 1}\n", ("a", "b")) == "a: {}\n"
    assert delete_key("- b: 1\n  c: 2\n", (0, "b")) == "- c: 2\n"


@pytest.mark.parametrize(
    ("text", "path", "value", "expected"),
    [
        (
            "a:\n- x: 1\n  # of x\n\nb: 1\n",
            ("a",),
            {"u": 1, "z": [1]},
            "a:\n- x: 1\n- u: 1\n  z:\n  - 1\n  # of x\n\nb: 1\n",
        ),
        ("a:\n  - x\n", ("a",), "u", "a:\n  - x\n  - u\n"),
        ("a: [x]\n", ("a",), {"u": 1}, "a: [x, {u: 1}]\n"),
        ("a: []\n", ("a",), "u", "a: [u]\n"),
        ("a:\nb: 1\n", ("a",), "u", "a:\n- u\nb: 1\n"),
        ("b: 1", ("a",), "u", "b: 1\na:\n- u\n"),
        ("{}", ("a", "b"), "u", "{a: {b: [u]}}"),
        ("a: [1]\nb: [2]\n", ("a", "c"), "u", "a: {c: [u]}\nb: [2]\n"),
    ],
)
def test_an_item_is_appended(text, path, value, expected) -> None:
    assert append_item(text, path, value) == expected


def test_of_a_key_given_twice_the_last_one_counts() -> None:
    text = "a: {b: 1}\na: {b: 2}\n"
    assert set_value(text, ("a", "b"), 3) == "a: {b: 1}\na: {b: 3}\n"


def test_an_alias_is_replaced_but_nothing_in_it() -> None:
    text = "a: &x {b: 1}\nc: *x\n"
    assert set_value(text, ("c",), 2) == "a: &x {b: 1}\nc: 2\n"
    with pytest.raises(InputError, match="alias"):
        set_value(text, ("c", "b"), 2)


@pytest.mark.parametrize("text", ["", "a: [", "a: 1\n b: 1", "\t-"])
def test_faults_are_input_errors(text) -> None:
    with pytest.raises(InputError):
        set_value(text, ("a", "b"), 1)


DOCUMENTS = "# head\n%YAML 1.2\n--- # a\na: 1\n...\n# between\n---\n---\n  b: 2\n  c: 3\n--- {d: 4}\n---"


def test_a_text_is_cut_into_its_documents() -> None:
    head, *documents = split_documents(DOCUMENTS)

    assert "".join([head, *documents]) == DOCUMENTS
    assert [read(one.removesuffix("---")) if one else None for one in documents[::2]] == [
        {"a": 1},
        {"b": 2, "c": 3},
        None,
    ]
    assert len(documents) == len(read_documents(DOCUMENTS, "x")) == 5
    assert set_value(documents[2], ("b",), 5) == documents[2].replace("2", "5")


KEYS = st.sampled_from(["a", "b", "c", "on", "x y", "1", "é", "#"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-9, 10**6)
    | st.text(max_size=6)
    | st.sampled_from(["yes", "0x1", ": ", "- a"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@given(
    st.dictionaries(KEYS, VALUES, min_size=1, max_size=3), st.lists(KEYS, min_size=1, max_size=3), VALUES, st.booleans()
)
def test_any_value_is_read_back(document, path, value, flow) -> None:
    from warmstart.core.yaml_writing import write_yaml

    text = json.dumps(document) if flow else write_yaml(document)
    expected = read(text)
    place = expected
    for key in path[:-1]:
        if not isinstance(place.get(key), dict | list):
            place[key] = {}
        place = place[key]
        if isinstance(place, list):
            return
    place[path[-1]] = value
    assert read(set_value(text, tuple(path), value)) == expected
