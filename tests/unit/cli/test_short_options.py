"""A short option has one meaning in all commands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import click

from warmstart.cli.main import cli

#: The long option that each short one stands for.
MEANINGS = {
    "-c": "--container",
    "-f": "--from",
    "-h": "--help",
    "-j": "--jobs",
    "-l": "--selector",
    "-n": "--namespace",
    "-o": "--output",
    "-t": "--tag",
    "-v": "--verbose",
}


def walk(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from walk(click.Context(command, info_name=name, parent=context))


def describe_value(option: click.Option) -> str:
    """A fixed choice, a number and a switch are other things than a name or a path, whatever the option is called."""
    if option.is_flag:
        return "switch"
    if isinstance(option.type, click.Choice | click.types.IntParamType | click.types.FloatParamType):
        return repr(option.type)
    return "name or path"


def test_a_short_option_has_one_meaning():
    found = defaultdict(set)
    commands = list(walk(click.Context(cli, info_name="warmstart", help_option_names=["-h", "--help"])))
    for context in commands:
        for option in context.command.get_params(context):
            names = [*option.opts, *option.secondary_opts] if isinstance(option, click.Option) else []
            long = [name for name in names if name.startswith("--")]
            for short in set(names) - set(long):
                found[short].add((*long, describe_value(option)))

    assert {"warmstart bench", "warmstart node run", "warmstart rbac"} <= {context.command_path for context in commands}
    assert {short: len(meanings) for short, meanings in found.items()} == dict.fromkeys(MEANINGS, 1), dict(found)
    assert {short: long for short, meanings in found.items() for long, _ in meanings} == MEANINGS
