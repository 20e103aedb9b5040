"""The counting of wording in scripts/prose.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "prose.py"


@pytest.fixture(scope="module")
def prose():
    spec = importlib.util.spec_from_file_location("prose", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["prose"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["prose"]


@pytest.fixture
def checkout(tmp_path):
    """A function that writes a file of a checkout, and answers with the checkout."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path

    return write


def in_module(checkout, text: str) -> Path:
    return checkout("warmstart/module.py", text)


def texts(found) -> list[str]:
    return [each.text for each in found]


@pytest.mark.parametrize(
    ("text", "words", "which", "you"),
    [
        ("Which of them is yours, and what do you want?", 10, 2, 2),
        ("Whose, of whom; somewhat whatever.", 5, 2, 0),
        ("Do it yourself, for 300 ms.", 5, 0, 1),
        ("", 0, 0, 0),
    ],
)
def test_words_are_counted(prose, text, words, which, you):
    assert prose.count(text) == prose.Count(words, which, you)


def test_a_rate_is_per_thousand_words(prose):
    assert prose.Count(500, 2, 4).rate(2) == 4
    assert prose.Count().rate(0) == 0


@pytest.mark.parametrize(
    "code",
    [
        "`what`",
        "``what ` which``",
        "[link](what.md#which-one)",
        "https://what.example/which",
        "<!-- what -->",
        '<img alt="what" src="which.svg">',
        "```sh\nwhat | which\n```",
        "- item\n\n  ```text\n  which\n  ```",
    ],
)
def test_code_and_targets_are_not_prose(prose, code):
    assert prose.count(prose.strip_markdown(f"before\n\n{code}\n\nafter")).which == 0


def test_the_text_of_a_link_is_prose(prose):
    assert prose.count(prose.strip_markdown("[what is left](page.md)")).which == 1


def test_lines_stay_where_they_are(prose):
    text = prose.strip_markdown("```\na\nb\n```\nwhat\n")
    assert list(prose.hits(prose.Text(Path("page.md"), 1, text), prose.WHICH)) == ["page.md:5: what: … what …"]


def test_pages_but_no_changes(prose, checkout):
    checkout("README.md", "one")
    checkout("docs/how-to/page.md", "two")
    checkout(".venv/lib/page.md", "not ours")
    root = checkout("CHANGELOG.md", "three")
    assert sorted(texts(prose.docs(root))) == ["one", "two"]


@pytest.mark.parametrize(
    ("heading", "found"),
    [
        ("# What is left out", True),
        ("## Where the time goes", True),
        ("## Does it help? What is left?", False),
        ("## What is left?", False),
        ("## Limits", False),
        ("## Whatever", False),
    ],
)
def test_headings_that_start_as_questions(prose, heading, found):
    assert bool(list(prose.questions([prose.Text(Path("page.md"), 1, heading)]))) is found


def test_docstrings_of_all_kinds(prose, checkout):
    classes = '"""M."""\nclass C:\n    """C."""\n    def f(self):\n        """F."""\n        x = "no"\n'
    root = in_module(checkout, f'{classes}async def g():\n    """G."""\n')
    assert sorted(texts(prose.docstrings(root))) == ["C.", "F.", "G.", "M."]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('raise E("it failed")', ["it failed"]),
        ('raise E(f"{a} failed: {b!r}") from None', ["… failed: …"]),
        ('raise E("one", hint="two", details=["three"])', ["one", "two", "three"]),
        ('raise E("one " "two")', ["one two"]),
        ('raise E("a" if b else "c")', ["a", "c"]),
        ('progress.warn("careful")', ["careful"]),
        ('f(hint="run this")', ["run this"]),
        ('click.option("--x", help="An option.")', ["An option."]),
        ('HINT = "A sentence of four words."', ["A sentence of four words."]),
        ('HINT = {"a": ("code", "A sentence of four words.")}', ["A sentence of four words."]),
        ('NAME = "a name"', []),
        ('NAME = "org.example.a.b.c/d.e.f"', []),
        ('SCRIPT = "set -eu\\nmake one two three"', []),
        ('PATTERN = r"cannot (\\w+) the one or the other"', []),
        ('CONFIG = "log = {level} and some more words"', []),
        ('f("not a message")', []),
        ('x = {"hint": 1}["hint"]', []),
        ('@click.command()\ndef c():\n    """Do it."""', ["Do it."]),
        ('@cli.group\ndef c():\n    """Do it."""', ["Do it."]),
        ('def c():\n    """Do it."""', []),
        ("raise", []),
    ],
)
def test_messages(prose, checkout, code, found):
    assert texts(prose.messages(in_module(checkout, code))) == found


def test_the_texts_of_a_schema_are_messages(prose, checkout):
    inner = '{"description": "b", "enum": ["c"], "anyOf": [{"errorMessage": "d"}]}'
    schema = f'{{"title": "a", "properties": {{"title": {inner}}}}}'
    assert texts(prose.messages(checkout("warmstart/recipe/x.schema.json", schema))) == ["a", "b", "d"]


@pytest.mark.parametrize(
    "text",
    ["Nothing is told.", "It was said", "seen to restore", "beside the file", "but for one", "all the same, fine",
     "not any more", "for want of memory", "of whom", "of which two", "the cure", "a crew",
     "the tree of tools", "a go",
     "one go", "it goes on", "it is not said", "whoever does it", "if need be"],
)  # fmt: skip
def test_phrases_of_the_old_dialect(prose, text):
    assert list(prose.phrases([prose.Text(Path("m.py"), 1, text)]))


@pytest.mark.parametrize(
    "text", ["secure", "besides", "screw", "untold", "a Go program", "for all the same files", "this is a go binary"]
)
def test_plain_words_are_none_of_them(prose, text, monkeypatch):
    monkeypatch.setattr(prose, "ALLOWED", ("all the same files", "is a go binary"))
    assert not list(prose.phrases([prose.Text(Path("m.py"), 1, text)]))


def test_a_limit_holds(prose):
    assert not list(prose.exceeded("docs", prose.Count(1000, 4, 8)))
    assert len(list(prose.exceeded("docs", prose.Count(1000, 5, 7)))) == 2
    assert not list(prose.exceeded("docstrings", prose.Count(1000, 4, 0)))
    assert len(list(prose.exceeded("messages", prose.Count(1000, 5, 0)))) == 1


def test_the_check_fails_and_says_why(prose, checkout, capsys):
    root = checkout("README.md", "# What is left out\n\nwhat which")
    assert prose.main(["--check", "--root", str(root), "docs"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert "README.md:1: a heading that starts with a question word: What is left out" in printed[2]


def test_the_check_passes(prose, checkout, capsys):
    root = checkout("README.md", "# Limits\n\nYou are done.")
    assert prose.main(["--check", "--root", str(root), "docs"]) == 0
    assert capsys.readouterr().out == ""


def test_the_table_has_each_file_and_the_total(prose, checkout, capsys):
    root = checkout("README.md", "what you")
    assert prose.main(["--root", str(root), "docs"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [str(root / "README.md"), "2", "500.0", "500.0"] in lines
    assert ["total", "2", "500.0", "500.0"] in lines


def test_an_unknown_kind_is_refused(prose):
    with pytest.raises(SystemExit):
        prose.main(["poems"])
