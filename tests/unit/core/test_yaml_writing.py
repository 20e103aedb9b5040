import pytest
from ruamel.yaml import YAML

from warmstart.core.yaml_writing import write_yaml


@pytest.mark.parametrize("text", ["a\x1b]0;t\x07b", "right\u202eleft", "two\nlines\u2066\n", "c1 \x9b2J", "a\u2028b"])
def test_no_character_that_steers_a_terminal_is_written(text):
    written = write_yaml({"ünicode": text, text: [text]})
    assert all(char == "\n" or char.isprintable() for char in written)
    assert YAML(typ="safe", pure=True).load(written) == {"ünicode": text, text: [text]}


def test_text_for_people_stays_as_it_is():
    assert write_yaml({"a": "größer 漢字"}) == "a: größer 漢字\n"
