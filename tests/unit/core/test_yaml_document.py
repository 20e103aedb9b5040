"""YAML as plain values with their places."""

import json
from typing import Any

import pytest

from warmstart.core.errors import InputError
from warmstart.core.yaml_document import dotted, plain_value, read_document, read_documents, shown


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("NULL", None),
        ("true", True),
        ("Yes", True),
        ("on", True),
        ("y", True),
        ("OFF", False),
        ("N", False),
        ("nO", "nO"),
        ("0", 0),
        ("-12", -12),
        ("+1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 15),
        ("-0b11", -3),
        ("089", 89),
        ("8080.0", 8080),
        ("1e3", 1000),
        ("1e19", 10**19),
        ("1e64", 1e64),
        (".5", 0.5),
        ("-1.5E-1", -0.15),
        ("1e999", "1e999"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("٣", "٣"),
        ("_1", "_1"),
        ("<<", "<<"),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", "18446744073709551616"),
        ("9" * 5000, "9" * 5000),
        ("0x" + "f" * 5000, "0x" + "f" * 5000),
    ],
)
def test_plain_scalars(text: str, value: Any) -> None:
    result = plain_value(text)
    assert (type(result), result) == (type(value), value)


def test_tags_and_quotes() -> None:
    text = "[yes, 'yes', \"8\", !!str 8, !!int '8', !!bool 'yes', ! 8, |\n  8\n, !!map {a: !!seq [1]}]"
    document = read_document(text.replace("|\n  8\n", "'8\n'"), "x")
    assert document.value == [True, "yes", "8", "8", 8, True, "8", "8 ", {"a": [1]}]
    assert document.problems == []


def test_places() -> None:
    document = read_document("# comment\na:\n  - b: 0x10\n    c:\n      'd'\n  - x\n", "f")
    assert {dotted(path): (place.label, place.written) for path, place in document.places.items()} == {
        "": ("f:2", None),
        "a": ("f:2", None),
        "a[0]": ("f:3", None),
        "a[0].b": ("f:3", "0x10"),
        "a[0].c": ("f:4", None),
        "a[1]": ("f:6", None),
    }
    assert document.place(("a", 0, "missing")).label == "f:3"
    assert document.place(("missing", "too")).label == "f:2"


def test_values_of_an_alias_are_where_its_anchor_is() -> None:
    document = read_document("a: &a\n  b: 1\nc: *a\n", "f")
    assert document.value == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.place(("c",)).label == "f:3"
    assert document.place(("c", "b")).label == "f:2"


def test_documents() -> None:
    assert [document.value for document in read_documents("a: 1\n---\n---\n- &x b\n...\n", "f")] == [
        {"a": 1},
        None,
        ["b"],
    ]
    assert read_documents("", "f") == []


def test_shown() -> None:
    assert shown("a" * 80) == "a" * 80
    assert shown("a" * 81) == "a" * 80 + "…"
    assert shown("a\nb") == "'a\\nb'"


def test_a_surrogate_pair_of_json_is_one_character() -> None:
    document = read_document(json.dumps({"a": "\N{GRINNING FACE}"}), "x")
    assert document.value == {"a": "\N{GRINNING FACE}"}
    assert document.problems == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("%YAML 1.3\n---\nname: x\n", "r.yaml:1:1: %YAML 1.3: only YAML 1.1 and 1.2 are read"),
        ("a: b\n...\n%YAML 9.9.9\n---\nname: x\n", "r.yaml:3:1: %YAML 9.9.9: only YAML 1.1 and 1.2 are read"),
        ("a:\n  x: !!float\n", "r.yaml:2:6: nothing does not match its tag tag:yaml.org,2002:float"),
        ("a: !!int b\n", "r.yaml:1:4: b does not match its tag tag:yaml.org,2002:int"),
        ("a: !!int true\n", "r.yaml:1:4: true does not match its tag tag:yaml.org,2002:int"),
        ("a: !!bool 1\n", "r.yaml:1:4: 1 does not match its tag tag:yaml.org,2002:bool"),
        ("a: !!null x\n", "r.yaml:1:4: x does not match its tag tag:yaml.org,2002:null"),
    ],
)
def test_versions_and_tags_that_do_not_fit(text, said):
    with pytest.raises(InputError) as refusal:
        read_documents(text, "r.yaml")
    assert refusal.value.details == (said,)


@pytest.mark.parametrize("text", ["%YAML 1.1\n---\na: 1\n", "%YAML 1.2\n---\na: !!float 1\n", 'a: !!int "1"\n'])
def test_versions_and_tags_that_fit(text):
    assert read_documents(text, "r.yaml")[0].value == {"a": 1}
