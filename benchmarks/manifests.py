#!/usr/bin/env python3
"""Measure how many workloads of manifests can be built as they are: `init`, then the check of its recipe.

    benchmarks/manifests.py [--json] [--each] [--only FILE] DIRECTORY...

Each container of a workload counts, in each YAML file below the directories; init containers, hooks of charts, and
well-known services such as databases do not. The input is all files of the DIRECTORY, those nearest to the workload
first: give the root of a repository as one. Templates are passed over. Nothing is run, and no image is looked at.

A container can be built if its recipe passes `warmstart build --check`, and `init` has nothing under TODO. The reasons
for the others overlap.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.core.errors import WarmstartError
from warmstart.recipe.init.inputs import Inputs, read_inputs
from warmstart.recipe.init.kinds import kind_of_image
from warmstart.recipe.init.manifest import InitOptions, propose_recipe
from warmstart.recipe.load import load_recipe
from warmstart.recipe.pods import PodContainer, mapping_at

SUFFIXES = (".yaml", ".yml")
TEMPLATE = "the image is a template, or the manifest is a patch"
MISSING_SERVICE = "a service that is not there"
# Parts of the reasons that `init` and the check give, and their names here. The first that fits counts.
REASONS = (
    (TEMPLATE, ("name the base image", "looks like a placeholder")),
    ("no probe and no port", ("there is no probe", "has no probe")),
    (MISSING_SERVICE, ("it refers to the service",)),
    ("a service with mapped ports", ("maps port",)),
    ("a ConfigMap that is not there", ("is not in ", "has no key")),
    ("keys of a Secret unknown", ("the keys of",)),
    ("values of a Secret that mean something", ("a random text will hardly do",)),
    ("an init container without image", ("the init container",)),
    ("variables from files", ("is in a file that no build has",)),
)


@dataclass(frozen=True)
class Answer:
    """The answer for a container; it can be built if there are no reasons.

    `is_proposed` tells whether `init` proposes all that is missing, in a comment.
    """

    name: str
    reasons: tuple[str, ...]
    is_proposed: bool = False

    @property
    def kinds(self) -> list[str]:
        """The names of the reasons."""
        return list(dict.fromkeys(map(name_reason, self.reasons)))


def name_reason(reason: str) -> str:
    """Return the name of a reason."""
    return next((name for name, parts in REASONS if any(part in reason for part in parts)), "refused: " + reason[:90])


def measure(directories: Iterable[Path], only: Collection[str] | None = None) -> Iterator[Answer]:
    """Yield the answer for each container below the directories, or for those whose names are in `only`."""
    for directory in directories:
        files = {}
        for file in sorted(path for path in directory.rglob("*") if path.suffix in SUFFIXES and path.is_file()):
            with contextlib.suppress(WarmstartError, OSError):  # a template of a chart, or no manifest at all
                files[file] = read_inputs(file)
        for file, own in files.items():
            near = sorted(files, key=lambda other: count_steps(file, other))
            whole = Inputs(str(directory), tuple(one for other in near for one in files[other].objects))
            for container in find_workloads(own):
                if only is None or name_of(file, container) in only:
                    yield answer(file, container, own, whole)


def count_steps(file: Path, other: Path) -> int:
    """Return the number of directories between two files."""
    return len(file.parent.parts) + len(other.parent.parts) - 2 * len(Path(os.path.commonpath([file, other])).parts)


def find_workloads(inputs: Inputs) -> Iterator[PodContainer]:
    """Yield the containers that count."""
    for one in inputs.objects:
        for container in one.containers:
            is_hook = "helm.sh/hook" in mapping_at(one.value, "metadata", "annotations")
            if one.value.get("apiVersion") and not is_hook and not kind_of_image(str(container.block.get("image", ""))):
                yield container


def name_of(file: Path, container: PodContainer) -> str:
    """Return the name of a container in the answers."""
    return f"{file}: {container.kind.lower()}/{container.owner}/{container.name}"


def answer(file: Path, container: PodContainer, own: Inputs, whole: Inputs) -> Answer:
    """Return the answer for a container of a file."""
    name = name_of(file, container)
    with tempfile.TemporaryDirectory() as place:
        recipe = Path(place) / "recipe.yaml"
        owner = own.owner_of(container)
        options = InitOptions(container.name, Path(place))
        try:
            proposal = propose_recipe(replace(whole, chosen=owner.value), options)
        except WarmstartError as error:
            return Answer(name, (*error.details, error.brief)[:1])
        recipe.write_text(proposal.text, encoding="utf-8")
        try:
            load_recipe(recipe)
        except WarmstartError as error:
            return Answer(name, proposal.to_do or (*error.details, error.brief)[:1])
        missing = [reason for reason in proposal.to_do if name_reason(reason) == MISSING_SERVICE]
        is_proposed = len(missing) == len(proposal.to_do) and not any("TODO" in text for text in proposal.stanzas)
        return Answer(name, proposal.to_do, is_proposed and bool(missing))


def show(answers: list[Answer]) -> None:
    """Print the share that can be built, and the reasons for the others."""
    built = sum(not one.reasons for one in answers)
    sys.stdout.write(f"{built} of {len(answers)} can be built as they are ({built / max(1, len(answers)):.0%})\n")
    whole = [one for one in answers if TEMPLATE not in one.kinds]
    sys.stdout.write(
        f"{built} of {len(whole)} whose image is neither a template nor missing ({built / max(1, len(whole)):.0%})\n"
    )
    proposed = sum(one.is_proposed for one in answers)
    sys.stdout.write(f"{proposed} more with the services that `init` proposes in a comment\n")
    for kind, count in Counter(kind for one in answers for kind in one.kinds).most_common():
        sys.stdout.write(f"{count:6} {count / max(1, len(answers)):4.0%}  {kind}\n")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIRECTORY")
    parser.add_argument("--json", action="store_true", help="Print the answers as JSON.")
    parser.add_argument("--each", action="store_true", help="Print each container with its reasons.")
    parser.add_argument("--only", type=Path, metavar="FILE", help="Count the containers whose names are its lines.")
    options = parser.parse_args()
    only = None if options.only is None else set(options.only.read_text(encoding="utf-8").splitlines())
    answers = list(measure(options.directories, only))
    if options.json:
        sys.stdout.write(json.dumps([{"name": one.name, "reasons": one.reasons} for one in answers], indent=2) + "\n")
        return
    if options.each:
        for one in answers:
            sys.stdout.write("".join(f"{line}\n" for line in [one.name, *(f"    {text}" for text in one.reasons)]))
    show(answers)


if __name__ == "__main__":
    main()
