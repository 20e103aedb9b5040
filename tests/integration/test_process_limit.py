"""The limit stops a fork bomb in a build, and no process is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.builds import write_recipe

from warmstart.engine.local import start_engine
from warmstart.image.skopeo import copy_image
from warmstart.node import crio
from warmstart.node.cgroup import find_own_hierarchies, limits_processes
from warmstart.node.keeper import Bind
from warmstart.probe.readiness import first_probe, wait_first_success
from warmstart.recipe.load import load_recipe

pytestmark = pytest.mark.node

NAME = "localhost/tests/bomb:1"
LIMIT = 200


def test_a_fork_bomb_is_stopped_and_nothing_of_it_stays(base_archive, open_node, tmp_path, monkeypatch):
    if not limits_processes(find_own_hierarchies()):
        pytest.skip("needs the cgroup controller pids")
    monkeypatch.setattr(crio, "PIDS_LIMIT", LIMIT)
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", base_archive, NAME))
    container = replace(recipe.container, env=(("BOMB", "1"),))
    with open_node(Bind(str(base_archive))) as session:
        layout = session.workspace / "layout"
        copy_image(session, f"oci-archive:{base_archive}", f"oci:{layout}")
        with start_engine(session, "bomb", subnet="10.77.0.0/24") as engine:
            engine.import_image(layout, NAME)
            with engine.cri.start(container, NAME, "pod") as running:
                wait_first_success(running, first_probe(container), limit_s=60)
                namespace = (session.proc / str(running.pid) / "ns/pid").readlink()
                assert len(find_members(session.proc, namespace)) == LIMIT
                # The builder itself can still do all it has to, such as start a program.
                session.run(["true"], timeout_s=60)
            assert find_members(session.proc, namespace) == []


def find_members(proc: Path, namespace: Path) -> list[Path]:
    """List the processes in a PID namespace."""
    found = []
    for process in proc.glob("[0-9]*"):
        try:
            found += [process] if (process / "ns/pid").readlink() == namespace else []
        except FileNotFoundError:
            continue
    return found
