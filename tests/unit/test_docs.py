"""What the documentation names exists: files and headings, commands and options, codes and variables."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from ruamel.yaml import YAML
from support import traits

from warmstart.cli.main import cli
from warmstart.core import errors
from warmstart.core.errors import WarmstartError
from warmstart.dump.state.rules import CERTAIN_BY_RUNTIME, CERTAIN_BY_SELF, FIXES, find_rule
from warmstart.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
PLACES = ("*.md", "docs/**/*.md", "examples/*/*.md", "recipes/*.md", "recipes/*/*.md")
PAGES = {str(path.relative_to(ROOT)): path for place in PLACES for path in sorted(ROOT.glob(place))}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)", re.DOTALL)
COMMAND = re.compile(r"(?:^|[\s/(])warmstart +([-a-z#][^\n]*)", re.MULTILINE)
OPTION = re.compile(r"(--[a-z-]+|-[a-z])(?:[= ].*)?")
CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")

# Options that are named on their own, and are those of other programs.
FOREIGN_OPTIONS = {
    *("--privileged", "--loop", "--post-renderer-args"),
    *("--insecure-ignore-tlog", "--trusted-root", "--type"),  # of cosign
    "--hypothesis-profile",  # of pytest
    "--horizontal-pod-autoscaler-sync-period",  # of the controller manager
}
# Pages that speak of other programs' options: of what runs in the containers, and of the launcher.
OTHER_PROGRAMS = ("examples/", "recipes/", "launcher/")


@pytest.fixture(params=PAGES)
def page(request) -> Path:
    return PAGES[request.param]


def prose_of(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def code_of(page: Path, *languages: str) -> Iterator[str]:
    for language, code in FENCE.findall(page.read_text()):
        if language in languages:
            yield code


def rows_of(text: str) -> list[list[str]]:
    """The cells of all tables."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# Links


def anchors_of(page: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ +(.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(page):
    for link in LINK.findall(prose_of(page)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not anchor or anchor in anchors_of(target), f"{link}: there is no such heading"


# Commands


def shell_of(page: Path) -> Iterator[str]:
    """What a reader is to type, a command on a line."""
    yield from code_of(page, "sh", "yaml")
    for code in code_of(page, "console"):
        yield "\n".join(line[2:] for line in code.splitlines() if line.startswith("$ "))
    yield from SPAN.findall(prose_of(page))


def commands_in(page: Path) -> Iterator[str]:
    for text in shell_of(page):
        yield from COMMAND.findall(re.sub(r"\\\n\s*", "", text))


def split(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # the end of a command in $(...) or in quotes
        return line.strip("\"')").split()


def check_command(words: list[str]) -> None:
    command: click.Command = cli
    while words and words[0] not in ("|", ">", "&&", ";"):
        word, _, value = words.pop(0).partition("=")
        if word.startswith("-") and word != "-":
            option = next((each for each in command.params if word in each.opts), None)
            assert isinstance(option, click.Option) or word in ("--help", "-h"), f"{command.name} has no option {word}"
            if isinstance(option, click.Option) and not option.is_flag and not value:
                words[:1] = []
        elif isinstance(command, click.Group):
            below = command.get_command(click.Context(command), word)
            assert below is not None, f"there is no command {word}"
            command = below
        elif command.name == "run":
            return


def test_commands_and_their_options_exist(page):
    for line in commands_in(page):
        try:
            check_command(split(line))
        except AssertionError as wrong:
            raise AssertionError(f"warmstart {line}: {wrong}") from None


@pytest.mark.parametrize(
    "line", ["biuld recipe.yaml", "build --keeep x", "node stup", "--loud doctor", "doctor --force"]
)
def test_a_wrong_command_would_be_found(line):
    with pytest.raises(AssertionError):
        check_command(split(line))


def commands_below(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return []
    context = click.Context(command)
    found = [command.get_command(context, name) for name in command.list_commands(context)]
    return [below for below in found if below is not None]


def all_options(command: click.Command) -> Iterator[str]:
    for option in command.params:
        yield from option.opts
    for below in commands_below(command):
        yield from all_options(below)


@pytest.mark.parametrize("name", [name for name in PAGES if not name.startswith(OTHER_PROGRAMS)])
def test_options_that_are_named_exist(name):
    known = {*all_options(cli), "--help", *FOREIGN_OPTIONS}
    matches = [OPTION.fullmatch(span) for span in SPAN.findall(prose_of(PAGES[name]))]
    assert not {match[1] for match in matches if match} - known


def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for text in shell_of(page) for name in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)}
    assert named <= targets


def test_the_reference_of_the_command_line_is_up_to_date():
    script = ROOT / "scripts" / "cli_reference.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert PAGES["docs/reference/cli.md"].read_text() == made, (
        "run: python scripts/cli_reference.py > docs/reference/cli.md"
    )


# Codes and variables


@pytest.mark.parametrize("name", ["docs/how-to/ci.md", "docs/reference/cli.md"])
def test_exit_codes_are_the_real_ones(name):
    own = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WarmstartError)]
    kinds = {kind.exit_code: kind.kind for kind in own}
    rows = [row for row in rows_of(PAGES[name].read_text()) if row[0].isdigit() and row[1] not in ("", "usage")]
    assert {int(row[0]): row[1] for row in rows} == {**kinds, WarmstartError.exit_code: WarmstartError.kind}


def preflight_codes() -> set[str]:
    """The codes in the source: first arguments of errors and warnings, and first ones of pairs of code and fix."""
    codes = set()
    for path in (ROOT / "warmstart/dump/preflight").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and {"error", "warning"} & {
                name.id for name in ast.walk(node.func) if isinstance(name, ast.Name)
            }:
                values = node.args[:1]
            elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
                values = node.elts[:1]
            else:
                continue
            codes |= {value.value for value in values if isinstance(value, ast.Constant)}
    return {code for code in codes if isinstance(code, str) and CODE.fullmatch(code)}


def test_each_preflight_code_has_its_cure():
    text = PAGES["docs/troubleshooting.md"].read_text()
    section = text.partition("\n## Preflight")[2].partition("\n## ")[0]
    documented = {SPAN.match(row[0])[1] for row in rows_of(section) if SPAN.match(row[0])}
    assert len(documented) > 30
    assert documented == preflight_codes()


def test_each_code_of_lost_state_has_its_cure():
    text = PAGES["docs/troubleshooting.md"].read_text()
    section = text.partition("\n## Not everything is restored")[2].partition("\n## ")[0]
    assert {SPAN.match(row[0])[1] for row in rows_of(section) if SPAN.match(row[0])} == FIXES.keys()


@pytest.mark.linux
def test_the_tables_of_what_survives_are_made_from_results():
    script = load_module(ROOT / "scripts/what_survives.py")
    results, text = json.loads(script.RESULTS.read_text()), PAGES["docs/what-survives.md"].read_text()
    made = script.write_document(text, results)
    assert made.count("<!-- table: ") == len(script.TABLES)
    assert text == made, "run: python scripts/what_survives.py docs/what-survives.md"
    listed = "import holds, json; print(json.dumps([[each.fact, each.name] for each in holds.traits]))"
    command = [sys.executable, "-c", listed]
    made = subprocess.run(command, cwd=ROOT / "tests/programs", capture_output=True, text=True, check=True).stdout
    holds = {(fact, name) for fact, name in json.loads(made)}
    for facts in results.values():
        assert {(fact, name) for fact, outcomes in facts.items() for name in outcomes} == holds, "see holds.json"


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_what_survives_is_as_measured():
    """The losses are those of tests/integration/test_kernel_state.py."""
    text = PAGES["docs/what-survives.md"].read_text().partition("\n## Not compared")[0]
    rows = [row for row in rows_of(text) if len(row) == 4 and row[1] in ("kept", "lost")]
    told = {name: row[1:] for row in rows for name in row[0].split(", ")}
    set_facts = {*traits.THREAD, *traits.PROCESS, *traits.DECISIVE, "locks", *traits.LOST, *traits.LOST_BY_RUNTIME}
    set_facts |= {name for facts in traits.DESCRIPTORS.values() for name in facts}
    # The fact "huge pages off" tells of the same.
    set_facts -= {"THP_enabled"}
    measured = {}
    for fact in set_facts:
        rule = next(rule for subject in traits.SUBJECTS if (rule := find_rule(subject, fact)))
        by_runtime = "lost" if fact in traits.LOST | traits.LOST_BY_RUNTIME else "kept"
        by_self = "lost" if fact in traits.LOST | traits.LOST_BY_SELF else "kept"
        measured[rule.title] = (by_runtime, by_self, rule.severity)
    found = {title: (told[title][0], told[title][1].split(",")[0], told[title][2].split(",")[0]) for title in measured}
    assert found == measured
    early = {title for title, (*_, cost) in told.items() if cost.endswith("before the checkpoint")}
    certain = {
        rule.title
        for subject in traits.SUBJECTS
        for fact in (*CERTAIN_BY_RUNTIME, *CERTAIN_BY_SELF)
        if (rule := find_rule(subject, fact))
    }
    assert early == certain


def test_variables_are_the_real_ones():
    sources = "\n".join(path.read_text() for path in (ROOT / "warmstart").rglob("*.py"))
    used = set(re.findall(r"\bWARMSTART_[A-Z_]+", sources))
    launcher = "\n".join(path.read_text() for path in (ROOT / "launcher/src").glob("*.c"))
    used |= set(re.findall(r'\bgetenv\("(WARMSTART_[A-Z_]+)"\)', launcher))
    agent = "\n".join(path.read_text() for path in (ROOT / "hooks/java/src").rglob("*.java"))
    used |= set(re.findall(r'"(WARMSTART_[A-Z_]+)"', agent))
    documented = set(re.findall(r"\bWARMSTART_[A-Z_]+", PAGES["docs/reference/environment.md"].read_text()))
    assert documented == used


# Files that are shown


def test_yaml_is_yaml(page):
    for code in code_of(page, "yaml"):
        list(YAML(typ="safe").load_all(code))


# Files that the recipes of the docs refer to.
CONFIG = "kind: ConfigMap\nmetadata: {name: shop-config}\ndata: {LOG_LEVEL: info}\n"
POSTGRES = "kind: Pod\nspec: {containers: [{name: db, image: postgres, ports: [{containerPort: 5432}]}]}\n"


def test_recipes_are_recipes(page, tmp_path):
    (tmp_path / "k8s").mkdir()
    (tmp_path / "k8s/config.yaml").write_text(CONFIG)
    (tmp_path / "k8s/postgres.yaml").write_text(POSTGRES)
    for code in code_of(page, "yaml"):
        if code.startswith("apiVersion: warmstart/"):
            path = tmp_path / "recipe.yaml"
            path.write_text(code)
            load_recipe(path)
