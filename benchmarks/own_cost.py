#!/usr/bin/env python3
"""Measure what a build takes besides the application's start, its warm-up, the pull and the push.

    benchmarks/own_cost.py [--rounds N] [--other COMMAND] [--case NUMBER]...

With --other, another version's command (CHECKOUT/.venv/bin/warmstart) builds the same recipes in turn. Each figure is a
median over the rounds. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

TOP = Path(__file__).resolve().parents[1]
RECIPE = TOP / "examples/java-app/recipe.yaml"
RESTORE = "restore: [runtime, self]"
OURS = (sys.executable, "-m", "warmstart")
# The steps that warmstart does not count as its own either.
NOT_OWN = ("tools", "pull", "ready", "warm up", "publish")

Command = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A way to build the example.

    Attributes:
        name: its row in the table.
        limit_s: what is aimed at.
        restore: the recipe's list of restorers.
        prepare: arguments of a command to run before each build.
        again: whether to measure a second build with the same target, as a whole.
    """

    name: str
    limit_s: float
    restore: str = "[runtime, self]"
    prepare: tuple[str, ...] = ()
    again: bool = False


CASES = (
    Case("[runtime, self], warm cache", 8),
    Case("[self], warm cache", 5, "[self]"),
    Case("[runtime], warm cache", 5, "[runtime]"),
    # The tools stay.
    Case("[runtime, self], first build", 12, prepare=("node", "prune", "--all")),
    Case("unchanged recipe, whole command", 2, again=True),
)


def main() -> int:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--other", help="the command of another version")
    parser.add_argument("--case", action="append", type=int, help="only this case, counted from 0")
    options = parser.parse_args()
    commands = [OURS, *([(options.other,)] if options.other else [])]
    write(f"load {os.getloadavg()[0]:.1f}, {options.rounds} rounds")
    write("| case | seconds | all rounds | aim | other | other ÷ this |\n| --- | --- | --- | --- | --- | --- |")
    for case in [CASES[number] for number in options.case or range(len(CASES))]:
        own, *other = measure_in_turn(commands, case, options.rounds)
        seconds, rounds = median(own), ", ".join(f"{one:.1f}" for one in sorted(own))
        others = [f"{median(each):.1f} | {median(each) / seconds:.1f}" for each in other] or [" | "]
        write(f"| {case.name} | {seconds:.1f} | {rounds} | ≤ {case.limit_s:g} | {others[0]} |")
    return 0


def measure_in_turn(commands: Sequence[Command], case: Case, rounds: int) -> list[list[float]]:
    """Build with each command in turn; return the seconds of all rounds for each."""
    seconds: dict[Command, list[float]] = {command: [] for command in commands}
    for number in range(rounds):
        for command in commands if number % 2 else reversed(commands):
            seconds[command].append(measure(command, case))
    return list(seconds.values())


def write(text: str) -> None:
    """Print text now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def measure(command: Command, case: Case) -> float:
    """Build once in a directory of its own; return seconds."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="own-cost-") as directory:
        recipe = Path(directory) / "recipe.yaml"
        text = RECIPE.read_text().replace(RESTORE, f"restore: {case.restore}")
        recipe.write_text(text.replace("archive:../..", f"archive:{TOP}"))
        if case.prepare and command == OURS:
            subprocess.run([*command, *case.prepare], check=True, stdout=subprocess.DEVNULL)
        arguments = ["build", "--json", str(recipe), "--output", f"oci-archive:{directory}/image.tar"]
        document = build([*command, *arguments])
        if not case.again:
            return sum(value for name, value in document["stepSeconds"].items() if name not in NOT_OWN)
        start = time.monotonic()
        build([*command, *arguments])
        return time.monotonic() - start


def build(command: Sequence[str]) -> Mapping[str, dict[str, float]]:
    """Run a build and return its JSON document."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    document: Mapping[str, dict[str, float]] = json.loads(done.stdout)
    return document


if __name__ == "__main__":
    sys.exit(main())
