"""Of all that a process can set in the kernel, nothing is lost unseen: the program itself tells what still holds."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from support.builds import build, write_recipe

from warmstart.build import verify
from warmstart.build.context import BuildOptions
from warmstart.build.kernel_state import Differences
from warmstart.build.publish import Output
from warmstart.core.progress import Progress
from warmstart.core.reference import Transport
from warmstart.dump.state import asked
from warmstart.dump.state.model import KernelState
from warmstart.engine.cri import CriContainer

ROOT = Path(__file__).parents[2]
#: The outcomes by restorer, fact and trait, of which docs/what-survives.md tells. WARMSTART_RECORD=1 writes them anew.
RECORD = ROOT / "tests/programs/holds.json"
IMAGE = ROOT / "build/images/python.tar"
PROGRAM = ROOT / "tests/programs/holds.py"
ASK = "import urllib.request as web; print(web.urlopen('http://127.0.0.1:8080/check').read().decode())"
#: Traits that preflight or the dump refuses, by restorer.
REFUSED = {"runtime": (), "self": ("inotify", "fanotify", "lease")}
#: Facts that are documented as not compared, in docs/what-survives.md.
DOCUMENTED = {"pos", "eventfd-count", "queues", "name"}

OUTCOMES = {True: "kept", False: "lost"}
#: Facts that tell of the same as others.
TWINS = {"THP_enabled"}

pytestmark = pytest.mark.node


class Watcher:
    """Asks the restored program what holds, and keeps what the comparison has found."""

    def __init__(self) -> None:
        self.answers: dict[str, bool | str] = {}
        self.differences: Differences = ()

    def ask(self, running: CriContainer) -> None:
        result = running.exec(["python3", "-c", ASK], 30)
        assert result.exit_code == 0, result.stderr
        self.answers = json.loads(result.stdout)

    def record(self, by_restore: Sequence[Differences], who: str, progress: Progress, *, force: bool) -> None:
        self.differences = by_restore[0]


@pytest.fixture
def watcher(monkeypatch) -> Watcher:
    found, look = Watcher(), verify._Pod._check_process

    def check(self: verify._Pod, running: CriContainer, before: KernelState) -> Differences:
        losses = look(self, running, before)
        found.ask(running)
        return losses

    monkeypatch.setattr(verify._Pod, "_check_process", check)
    # However busy this machine is.
    monkeypatch.setattr(asked, "OTHERS_S", 60.0)
    # An application or image with a lost restriction is refused even with --force.
    monkeypatch.setattr("warmstart.build.container.require_kept_by_runtime", lambda *_, **__: None)
    monkeypatch.setattr(verify, "judge_losses", found.record)
    return found


@cache
def load_facts() -> dict[str, str]:
    """Return the fact of each trait."""
    spec = importlib.util.spec_from_file_location("holds", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return {each.name: each.fact for each in module.traits}


def check_record(restorer: str, outcomes: Mapping[str, str]) -> None:
    """Check the measured outcomes against the record, of the traits that this machine has; or write them there."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if os.environ.get("WARMSTART_RECORD"):
        by_fact: dict[str, dict[str, str]] = {}
        for name, fact in load_facts().items():
            outcome = "refused" if name in REFUSED[restorer] else outcomes.get(name, "not available")
            by_fact.setdefault(fact, {})[name] = outcome
        RECORD.write_text(json.dumps({**record, restorer: by_fact}, indent=1) + "\n")
        return
    recorded = {name: outcome for traits in record[restorer].values() for name, outcome in traits.items()}
    # Another machine may have what that of the record did not have.
    known = {name: outcome for name, outcome in outcomes.items() if recorded.get(name) != "not available"}
    assert {name: recorded.get(name) for name in known} == known


@pytest.mark.parametrize("restorer", ["runtime", "self"])
def test_no_trait_is_lost_unseen(restorer, watcher, tree, cache, tmp_path):
    assert IMAGE.exists(), "make images"
    container = {"command": ["python3", "-u", "-c"], "args": [PROGRAM.read_text(), *REFUSED[restorer]]}
    recipe = write_recipe(tmp_path / "recipe.yaml", IMAGE, "localhost/tests/holds:1", container, restore=[restorer])
    build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "image"), force=True))
    facts = load_facts()
    told = {each.fact for each in watcher.differences}
    lost = {name for name, holds in watcher.answers.items() if holds is False}
    held = {name for name, holds in watcher.answers.items() if holds is True}
    print({name: why for name, why in watcher.answers.items() if isinstance(why, str)})
    check_record(restorer, {name: OUTCOMES[holds] for name, holds in watcher.answers.items() if holds in OUTCOMES})
    assert len(lost) + len(held) > 150
    assert {name: facts[name] for name in lost if facts[name] not in told | DOCUMENTED} == {}
    # And nothing is told that still holds.
    assert told - TWINS <= {facts[name] for name in lost}
