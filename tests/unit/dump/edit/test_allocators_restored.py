"""Real programs free and allocate memory again after a restore with the memory that `auto` maps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.once import MakeOnce
from support.reuse import PREFIX, PROGRAMS, restore_and_reuse

from warmstart.dump.edit.memory import choose_all

pytestmark = pytest.mark.node

FREE = (("free", "fine"),)
MIB = 1 << 20


def compile_c(name: str, directory: Path) -> str:
    """Compile a dynamically linked program, like those of a distribution."""
    flags = ["-O1", "-D_GNU_SOURCE", "-Wall", "-Werror", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", directory / name, PROGRAMS / f"{name}.c"], check=True, timeout=60)
    return f"/scratch/{name}"


def test_a_program_that_relies_on_zeros_is_left_alone(machine) -> None:
    outcome = restore_and_reuse(machine, [compile_c("discard", machine.scratch), PREFIX], steps=FREE)
    assert outcome.first.moved_bytes < MIB  # of libraries
    assert "/scratch/discard calls madvise or mremap, and may rely on zeros" in outcome.first.left_bytes
    assert outcome.said == "fine"


def test_a_program_that_relies_on_zeros_breaks_when_all_is_mapped(machine) -> None:
    """This hazard is the reason why `all` is not the default."""
    argv = [compile_c("discard", machine.scratch), PREFIX]
    outcome = restore_and_reuse(machine, argv, lambda _: choose_all, steps=FREE)
    assert outcome.first.moved_bytes >= 8 * MIB
    assert outcome.said == "WRONG no zeros"


def test_malloc_of_glibc(machine) -> None:
    outcome = restore_and_reuse(machine, [compile_c("reuse", machine.scratch), PREFIX])
    assert outcome.said == "fine"
    assert outcome.first.moved_bytes > 200 * MIB
    touched, freed, _ = outcome.mapped
    # It was given back by madvise: it is mapped as before, and not resident.
    assert freed.size > touched.size - 100 * MIB
    assert freed.resident < touched.resident // 2


@pytest.mark.parametrize("alignment", [16, 1024, 1 << 21])
def test_a_block_that_is_enlarged_does_not_reach_beyond_the_file(machine, alignment: int) -> None:
    outcome = restore_and_reuse(machine, [compile_c("grow", machine.scratch), PREFIX, str(alignment)], steps=FREE)
    assert outcome.first.moved_bytes >= 3 * MIB
    assert outcome.said == "fine"


def test_cpython(machine) -> None:
    machine.bind(Path(sys.base_prefix))
    shutil.copy(PROGRAMS / "reuse.py", machine.scratch)
    python = Path(sys.base_prefix) / f"bin/python3.{sys.version_info.minor}"
    outcome = restore_and_reuse(machine, [python, "/scratch/reuse.py", PREFIX])
    assert outcome.said == "fine"
    assert outcome.first.moved_bytes > 50 * MIB


@pytest.fixture
def go_program(machine, make_once: MakeOnce) -> str:
    compiler = shutil.which("go")
    if compiler is None:
        pytest.skip("needs the Go compiler on this machine")
    build = [compiler, "build", "-buildvcs=false", "-o"]
    program = make_once(
        "reuse-go", lambda path: subprocess.run([*build, path, PROGRAMS / "reuse.go"], check=True, timeout=300, cwd="/")
    )
    shutil.copy2(program, machine.scratch / "reuse")
    return "/scratch/reuse"


def test_go_that_is_told_not_to_rely_on_zeros(machine, go_program: str) -> None:
    outcome = restore_and_reuse(machine, ["env", "GODEBUG=madvdontneed=0", go_program, PREFIX])
    assert outcome.said == "fine"
    assert outcome.first.moved_bytes > 80 * MIB
    touched, freed, _ = outcome.mapped
    assert freed.size == touched.size
    assert freed.resident < touched.resident // 2


def test_go_as_it_is(machine, go_program: str) -> None:
    """Some versions are excluded from mapping, others are not. None breaks."""
    outcome = restore_and_reuse(machine, [go_program, PREFIX])
    assert outcome.said == "fine"
