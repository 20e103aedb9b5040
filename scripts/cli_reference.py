"""Print docs/reference/cli.md, generated from the commands and errors: `python scripts/cli_reference.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from warmstart.cli.main import cli
from warmstart.core import errors
from warmstart.core.errors import WarmstartError

INTRODUCTION = """\
# The command line

<!-- Made by `python scripts/cli_reference.py > docs/reference/cli.md`. Do not edit. -->

Results go to standard output; steps, warnings and errors go to standard error. You see steps if standard error is a
terminal, or with `--verbose`.

With `--json`, an error is JSON as well, on one line of standard error:
`{"error": {"kind": "recipe", "message": "...", "details": [], "hint": "...", "exitCode": 3}}`.

A result that is a JSON object has all warnings of the run in `warnings`. Standard error shows them in any case.

See also [image names](images.md), the [environment variables](environment.md), and the
[exit codes](#exit-codes) below.

## Commands
"""


def main() -> None:
    """Print the reference."""
    parts = [INTRODUCTION, *describe(click.Context(cli, info_name="warmstart")), exit_codes()]
    sys.stdout.write("\n".join(parts))


def describe(context: click.Context) -> Iterator[str]:
    """Yield a section for a command and each of its subcommands."""
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"### {context.command_path}\n\n```text\n{usage}\n```\n\n{help_text(command)}\n"
    rows = [option_row(context, each) for each in command.params if isinstance(each, click.Option)]
    if rows:
        yield "\n".join(["| Option | Meaning |", "| --- | --- |", *rows]) + "\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from describe(click.Context(inner, info_name=name, parent=context))


def help_text(command: click.Command) -> str:
    """Return a command's help text, one line for each paragraph."""
    paragraphs = (command.help or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def option_row(context: click.Context, option: click.Option) -> str:
    """Return a row of the options table."""
    record = option.get_help_record(context)
    assert record is not None, f"{option.name} has no help"
    names, meaning = record[0], " ".join(record[1].split())
    if option.multiple:
        meaning += " Can be given more than once."
    if option.envvar:
        meaning += f" Also `{option.envvar}`."
    return f"| `{names}` | {meaning} |"


def exit_codes() -> str:
    """Return the section on exit codes: one for each kind of error, and the common ones."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WarmstartError)]
    # A subclass without an exit code of its own, such as RecipeError, shares the row of its parent.
    kinds = sorted((k for k in kinds if k is not WarmstartError and "exit_code" in vars(k)), key=lambda k: k.exit_code)
    rows = [f"| {kind.exit_code} | {kind.kind} | {kind.__doc__} |" for kind in kinds]
    return "\n".join(
        [
            "## Exit codes\n",
            "| Code | Kind | Meaning |",
            "| --- | --- | --- |",
            "| 0 | | It worked. |",
            "| 1 | error | Something else: a program that warmstart runs failed, or warmstart itself. |",
            "| 2 | usage | The command line is wrong. |",
            *rows,
            "| 130 | | Interrupted, as with Ctrl-C. |",
            "| 143 | | Terminated by SIGTERM. |",
            "",
            "`warmstart node run` ends with the exit code of its command.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
