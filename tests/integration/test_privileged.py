"""CRI-O runs a privileged container that the user has allowed."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from support.builds import write_recipe

from warmstart.core.errors import EngineError
from warmstart.engine.local import start_engine
from warmstart.image.skopeo import copy_image
from warmstart.node.keeper import Bind
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import SecurityContext

pytestmark = pytest.mark.node

NAME = "localhost/tests/privileged:1"


def read_capabilities(status: Path) -> int:
    return int(re.search(r"^CapBnd:\t(\w+)$", status.read_text(), re.MULTILINE)[1], 16)


def test_a_privileged_container_has_all_that_this_machine_may_give(base_archive, open_node, tmp_path):
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", base_archive, NAME))
    container = replace(recipe.container, security_context=SecurityContext(privileged=True))
    every = (1 << int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1
    with open_node(Bind(str(base_archive))) as session, ExitStack() as ended:
        layout = session.workspace / "layout"
        copy_image(session, f"oci-archive:{base_archive}", f"oci:{layout}")
        engine = ended.enter_context(start_engine(session, "privileged", subnet="10.77.0.0/24"))
        engine.import_image(layout, NAME)
        if read_capabilities(Path("/proc/self/status")) != every:
            # In many a sandbox root lacks some of them: then runc refuses, no longer CRI-O the pod.
            ended.enter_context(pytest.raises(EngineError, match="can't apply capabilities"))
        running = ended.enter_context(engine.cri.start(container, NAME, "pod"))
        assert read_capabilities(session.proc / str(running.pid) / "status") == every
