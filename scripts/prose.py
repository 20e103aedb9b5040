#!/usr/bin/env python3
"""Count roundabout wording in the docs, the docstrings and the messages, and hold it to limits.

    scripts/prose.py [--check] [--verbose] [docs] [docstrings] [messages]

Plain English puts the subject first and addresses the reader. Two rates per 1,000 words show how far a text is from
that: "what", "which", "whom" and "whose" (few), and "you" and "your" (many, in the docs). Code blocks, code spans,
link targets and HTML are left out of the count.

In messages, phrases of `PHRASES` are not allowed at all, except in the sentences of `ALLOWED`. In the docs, no heading
may start with a question word.

With --check, exits with 1 if a limit of `LIMITS` is exceeded. With --verbose, lists every hit with its line.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("docs", "docstrings", "messages")

WHICH = re.compile(r"\b(?:what|which|whom|whose)\b", re.IGNORECASE)
YOU = re.compile(r"\byou(?:rs?|rself)?\b", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")


@dataclass(frozen=True)
class Limit:
    """Bounds for all texts of one kind together, per 1,000 words."""

    which_at_most: float
    you_at_least: float = 0.0


LIMITS = {
    "docs": Limit(which_at_most=4, you_at_least=8),
    "docstrings": Limit(which_at_most=4),
    "messages": Limit(which_at_most=4),
}

# Wording that reads as a translation. Each is a regular expression, matched without regard to case.
PHRASES = (
    r"\b(?:is|are|was|were|be)(?: not)? told\b",
    r"\b(?:is|are|was|were)(?: not)? said\b",
    r"\bseen to\b",
    r"\bbeside\b",
    r"\bbut for\b",
    r"\ball the same\b",
    r"\bnot any more\b",
    r"\bfor want of\b",
    r"\bwhom\b",
    r"\bof which\b",
    r"\bwhat else\b",
    r"\bsuch as it is\b",
    r"\bas ever\b",
    r"\b(?-i:(?:a|an|one|another|each) go)\b",  # and not the language
    r"\bcures?\b",
    r"\bcrews?\b",
    r"\btrees? of tools\b",
    r"\b(?:says|knows) (?:more )?about itself\b",
    r"\bgo(?:es)? on\b",
    r"\bwhoever\b|\banybody\b|\bsomebody\b",
    r"\bif need be\b",
    r"\bthe like\b",
    r"\bis to be had\b",
    r"\bwherefore\b|\bwhereof\b|\bthereof\b",
)
# Sentences that use such a word in its plain sense, by a part of them.
ALLOWED: tuple[str, ...] = ("is a go ",)

# Not documentation of the current version: what changed, and the license.
NOT_DOCS = {"CHANGELOG.md", "LICENSE.md"}
DOCS = (
    "*.md",
    "docs/**/*.md",
    "examples/*/*.md",
    "recipes/**/*.md",
    "integrations/**/*.md",
    "launcher/*.md",
    ".github/*.md",
)


_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2[ ]*$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^>]*>", re.DOTALL)
_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_TARGET = re.compile(r"\]\([^)\s]*\)")
_URL = re.compile(r"https?://[^\s)>]+")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_QUESTION = re.compile(r"(?:what|which|who|whom|whose|where|why)\b(?!.*\?)", re.IGNORECASE)

# Calls whose arguments the user reads. The first argument of these is a code or a logger's format, and is read too.
_MESSAGE_CALLS = {"error", "explain", "note", "warn", "warning", "echo", "tell", "Finding", "secho", "style"}
_MESSAGE_KEYWORDS = {"details", "epilog", "help", "hint", "short_help", "why"}
_SCHEMA_KEYWORDS = {"description", "errorMessage", "title"}
_COMMAND_DECORATORS = {"command", "group"}
_PROSE_WORDS = 4  # a constant of a module with fewer words is a name, not a sentence
_PLAIN = re.compile(r"(?:^|(?<=[\s(\"']))[A-Za-z][A-Za-z'’-]*(?=[\s),.:;!?\"']|$)")
_CODE = re.compile(r"[\n\\{}|$]")


@dataclass(frozen=True)
class Text:
    """A piece of prose and the place it comes from."""

    path: Path
    line: int
    text: str


@dataclass(frozen=True)
class Count:
    """The words of some texts, and how many are of either list."""

    words: int = 0
    which: int = 0
    you: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.words + other.words, self.which + other.which, self.you + other.you)

    def rate(self, hits: int) -> float:
        """Hits per 1,000 words."""
        return 1000 * hits / self.words if self.words else 0.0


def count(text: str) -> Count:
    """Count the words of a prose text."""
    return Count(len(WORD.findall(text)), len(WHICH.findall(text)), len(YOU.findall(text)))


# Texts


def strip_markdown(text: str) -> str:
    """Blank out code, link targets and HTML, keeping line numbers."""
    for pattern in (_FENCE, _COMMENT, _TAG, _SPAN, _TARGET, _URL):
        text = pattern.sub(lambda match: "\n" * match[0].count("\n") or " ", text)
    return text


def docs(root: Path) -> Iterator[Text]:
    """Yield the pages of the documentation."""
    pages = {path for pattern in DOCS for path in root.glob(pattern) if path.name not in NOT_DOCS}
    for path in sorted(pages):
        yield Text(path, 1, strip_markdown(path.read_text()))


def docstrings(root: Path) -> Iterator[Text]:
    """Yield the docstrings of the package."""
    for path, tree in _modules(root):
        for node in ast.walk(tree):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if documented and (text := ast.get_docstring(node)):
                yield Text(path, node.body[0].lineno, strip_markdown(text))


def messages(root: Path) -> Iterator[Text]:
    """Yield the strings of the package that a user reads: errors, warnings, hints, help, and the schema's texts."""
    for path, tree in _modules(root):
        for string in _message_strings(tree):
            if text := strip_markdown(_text_of(string)).strip():
                yield Text(path, string.lineno, text)
    for path in sorted((root / "warmstart").rglob("*.schema.json")):
        for string in _schema_strings(json.loads(path.read_text())):
            yield Text(path, 1, strip_markdown(string))


def _schema_strings(node: object) -> Iterator[str]:
    """Yield the texts of a JSON Schema: they are messages, and the reference of the recipe."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in _SCHEMA_KEYWORDS and isinstance(value, str):
            yield value
        else:
            yield from _schema_strings(value)
    for value in node if isinstance(node, list) else ():
        yield from _schema_strings(value)


def _modules(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((root / "warmstart").rglob("*.py")):
        yield path, ast.parse(path.read_text())


def _message_strings(tree: ast.Module) -> Iterator[ast.Constant | ast.JoinedStr]:
    seen: set[int] = set()
    for part in _message_nodes(tree):
        for string in _strings(part):
            if id(string) not in seen:
                seen.add(id(string))
                yield string


def _message_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
            yield from (each for each in _strings(statement.value) if _is_prose(each))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc:
            yield node.exc
        elif isinstance(node, ast.Call):
            if _name(node.func) in _MESSAGE_CALLS:
                yield from node.args
            yield from (keyword.value for keyword in node.keywords if keyword.arg in _MESSAGE_KEYWORDS)
        elif isinstance(node, ast.FunctionDef) and _is_command(node):
            yield node.body[0]


def _strings(node: ast.AST) -> Iterator[ast.Constant | ast.JoinedStr]:
    """Yield the string constants and f-strings below a node, an f-string as a whole."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _strings(child)


def _text_of(string: ast.Constant | ast.JoinedStr) -> str:
    """Return the literal text, with each placeholder of an f-string replaced by one mark."""
    if isinstance(string, ast.Constant):
        return str(string.value)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in string.values)


def _is_prose(string: ast.Constant | ast.JoinedStr) -> bool:
    """Tell a sentence from a name, a pattern, a script or a file's content."""
    text = _text_of(string)
    return not _CODE.search(text) and len(_PLAIN.findall(text)) >= _PROSE_WORDS


def _is_command(node: ast.FunctionDef) -> bool:
    calls = (each.func if isinstance(each, ast.Call) else each for each in node.decorator_list)
    return ast.get_docstring(node) is not None and any(_name(call) in _COMMAND_DECORATORS for call in calls)


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


# Findings


def hits(text: Text, pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield a line with its place for each match."""
    for match in pattern.finditer(text.text):
        line = text.line + text.text.count("\n", 0, match.start())
        around = text.text[max(0, match.start() - 40) : match.end() + 40].replace("\n", " ").strip()
        yield f"{_place(text.path)}:{line}: {match[0]}: … {around} …"


def questions(texts: Iterable[Text]) -> Iterator[str]:
    """Yield the headings that start as a question, and are none."""
    for text in texts:
        for match in _HEADING.finditer(text.text):
            if _QUESTION.match(match[1]):
                line = text.line + text.text.count("\n", 0, match.start())
                yield f"{_place(text.path)}:{line}: a heading that starts with a question word: {match[1]}"


def phrases(texts: Iterable[Text]) -> Iterator[str]:
    """Yield the messages that use a phrase of `PHRASES`."""
    pattern = re.compile("|".join(PHRASES), re.IGNORECASE)
    for text in texts:
        if not any(allowed in text.text for allowed in ALLOWED):
            yield from hits(text, pattern)


def exceeded(kind: str, total: Count) -> Iterator[str]:
    """Yield a sentence for each limit that the total is beyond."""
    limit = LIMITS[kind]
    which, you = total.rate(total.which), total.rate(total.you)
    if which > limit.which_at_most:
        yield f'{kind}: {which:.1f} of "what", "which", "whom", "whose" per 1,000 words; limit: {limit.which_at_most}'
    if you < limit.you_at_least:
        yield f'{kind}: {you:.1f} of "you", "your" per 1,000 words; at least: {limit.you_at_least}'


def _place(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def table(kind: str, texts: Iterable[Text]) -> list[str]:
    """Return the lines of a table, a line for each file, and the total."""
    files: dict[Path, Count] = {}
    for text in texts:
        files[text.path] = files.get(text.path, Count()) + count(text.text)
    total = sum(files.values(), Count())
    rows = [(_place(path), each) for path, each in files.items()]
    lines = [f"{kind:50} {'words':>7} {'which':>6} {'you':>6}   per 1,000 words"]
    for name, each in [*rows, ("total", total)]:
        lines.append(f"{name:50} {each.words:7} {each.rate(each.which):6.1f} {each.rate(each.you):6.1f}")
    return lines


def findings(kind: str, texts: Sequence[Text]) -> list[str]:
    """Return a line for each rule that the texts of a kind break."""
    found = list(exceeded(kind, sum((count(text.text) for text in texts), Count())))
    if kind == "docs":
        found += questions(texts)
    if kind == "messages":
        found += phrases(texts)
    return found


def main(arguments: list[str]) -> int:
    """Print the tables; with --check, exit with 1 if a rule is broken."""
    parser = argparse.ArgumentParser(description="Count roundabout wording, and hold it to limits.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"one of {', '.join(KINDS)}; all of them by default")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is exceeded; print only findings")
    parser.add_argument("--verbose", action="store_true", help="list each word that counts, with its line")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"unknown kind: {', '.join(sorted(unknown))}")

    found: list[str] = []
    for kind in options.kinds or KINDS:
        texts = list({"docs": docs, "docstrings": docstrings, "messages": messages}[kind](options.root))
        lines = table(kind, texts)
        found += findings(kind, list(texts))
        if not options.check:
            print("\n".join(lines), end="\n\n")
        if options.verbose:
            print("\n".join(line for text in texts for line in hits(text, WHICH)), end="\n\n")
    print("\n".join(found), end="\n" if found else "")
    return 1 if options.check and found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
