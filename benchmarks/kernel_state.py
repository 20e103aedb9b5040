#!/usr/bin/env python3
"""Measure what a build takes to compare the kernel state before the checkpoint with the one after each restore.

    benchmarks/kernel_state.py [--rounds N] [RECIPE]...

Without recipes, it builds java-app, for both restorers and for the runtime alone. For another version, run this file by
its Python and with its checkout in PYTHONPATH. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from warmstart.build import checkpoint, container, verify
from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.cli.context import default_cache
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.recipe.load import load_recipe

JAVA_APP = Path(__file__).resolve().parents[1] / "examples/java-app/recipe.yaml"
CASES = ("[runtime, self]", "[runtime]")
# Where a build looks at the kernel state: the module, and the name of the function in it.
LOOKS = ((container, "read_state"), (container, "add_landlock"), (checkpoint, "settle"), (verify, "find_losses"))


def main() -> int:
    """Build each recipe, and print a line for each build and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("recipes", nargs="*", type=Path)
    options = parser.parse_args()
    times: list[tuple[str, float]] = []
    for module, name in LOOKS:
        if hasattr(module, name):
            setattr(module, name, timed(getattr(module, name), name, times))
    cases = [(each, None) for each in options.recipes] or [(JAVA_APP, case) for case in CASES]
    sys.stdout.write(f"load {os.getloadavg()[0]:.1f}\n")
    for recipe, restore in cases:
        sums = [measure(recipe, restore, times) for _ in range(options.rounds)]
        sys.stdout.write(f"{recipe.parent.name} {restore or ''}: {1000 * median(sums):.0f} ms a build (median)\n")
    return 0


def timed(function: Callable[..., Any], name: str, times: list[tuple[str, float]]) -> Callable[..., Any]:
    """Return a function that does the same, and adds its name and seconds to a list."""

    @wraps(function)
    def wrapper(*args: object, **options: object) -> object:
        began = time.monotonic()
        try:
            return function(*args, **options)
        finally:
            times.append((name, time.monotonic() - began))

    return wrapper


def measure(recipe: Path, restore: str | None, times: list[tuple[str, float]]) -> float:
    """Build a recipe once, print the looks, and return the seconds that they took."""
    times.clear()
    overrides = [f"restore={restore}"] if restore else []
    # Not below /tmp, which may be memory.
    with TemporaryDirectory(dir="/var/tmp") as directory:
        output = Output(Transport.OCI, Path(directory) / "image")
        build_image(
            load_recipe(recipe, overrides=overrides),
            BuildOptions(Path(default_cache()), output),
            Progress(SilentListener()),
        )
    looks = ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in times)
    total_s = sum(seconds for _, seconds in times)
    sys.stdout.write(f"  {1000 * total_s:.0f} ms: {looks}\n")
    sys.stdout.flush()
    return total_s


if __name__ == "__main__":
    sys.exit(main())
