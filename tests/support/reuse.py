"""Restore the programs of tests/programs with mapped memory, and let them free and allocate memory again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.memory_file import map_to_file

from warmstart.dump.edit.allocators import choose_safe
from warmstart.dump.edit.memory import Choose, MappedMemory, MappedProcess
from warmstart.dump.edit.programs import Programs, read_programs

PROGRAMS = Path(__file__).parent.parent / "programs"
# The steps of the programs: suffix of the file that starts a step, and the line that the program prints after it.
STEPS = (("touch", "touched"), ("free", "freed"), ("reuse", "fine"))
PREFIX = "/scratch/go"
_NAME = "program"
_LIMIT_S = 90.0


@dataclass(frozen=True)
class Mapped:
    """Size and resident size of the memory that a process maps from the memory file, in bytes."""

    size: int
    resident: int


@dataclass(frozen=True)
class Outcome:
    """The last line of a program, the memory that was moved to the file, and its mapped memory after each step."""

    said: str
    memory: MappedMemory
    mapped: tuple[Mapped, ...]

    @property
    def first(self) -> MappedProcess:
        return self.memory.processes[0]


def restore_and_reuse(
    machine,
    argv: Sequence[str | Path],
    make_policy: Callable[[Programs], Choose] = choose_safe,
    steps: Sequence[tuple[str, str]] = STEPS,
) -> Outcome:
    """Start a program, dump it when it is ready, restore it with mapped memory, and run its steps."""
    pid = machine.start(_NAME, *argv)
    programs = read_programs(machine.inside(Path("/proc")), pid)
    dump = machine.dump(pid, "dump")
    memory = map_to_file(
        dump, machine.scratch / "memory", path_in_image="/scratch/memory", choose=make_policy(programs)
    )
    machine.restore("dump")
    mapped: list[Mapped] = []
    said = "ready"
    for step, word in steps:
        (machine.scratch / f"{Path(PREFIX).name}.{step}").touch()
        said = _await(machine, pid, word)
        if said != word:
            break
        mapped.append(_measure(machine.proc(pid) / "smaps"))
    return Outcome(said, memory, tuple(mapped))


def _await(machine, pid: int, word: str) -> str:
    """Wait for a line, and return it; or return the first complaint, or the last line if the program has ended."""
    end = time.monotonic() + _LIMIT_S
    while time.monotonic() < end:
        alive = machine.proc(pid).exists()
        lines = (machine.scratch / f"{_NAME}.out").read_text().splitlines()
        complaints = [line for line in lines if line.startswith("WRONG")]
        if complaints or word in lines:
            return complaints[0] if complaints else word
        if not alive:
            return f"ended after: {lines[-1]}"
        time.sleep(0.02)
    return f"nothing more after: {lines[-1]}"


def _measure(smaps: Path) -> Mapped:
    size = resident = 0
    is_ours = False
    for line in smaps.read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            is_ours = words[-1] == "/scratch/memory" or words[-1].endswith("/scratch/memory")
        elif is_ours and words[0] == "Size:":
            size += int(words[1]) << 10
        elif is_ours and words[0] == "Rss:":
            resident += int(words[1]) << 10
    return Mapped(size, resident)
