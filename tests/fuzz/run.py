"""Fuzz the readers of strangers' input for a bounded time: `python -m fuzz.run SECONDS [TARGET ...]`, or `make fuzz`.

Each target runs in a process of its own, with limits for memory and for the time of one input. An input that fails is
put into corpus/TARGET/, where the tests find it. With atheris (`pip install .[fuzz]`) mutations follow the coverage;
without it, inputs are mutated blindly.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
MEMORY_BYTES = 4 << 30
INPUT_S = 10
LAUNCHER = "launcher"
SANITIZERS = {"ASAN_OPTIONS": "detect_leaks=0"}  # what parsers allocate lives as long as the launcher
TELLING = (b"\0", b"\xff", b"\x80", b"-1", b"1" * 20, b"/", b"..", b"\n", b'"', b"{", b"[", b":", b"null", b"!!", b"*")


def main(arguments: list[str]) -> int:
    from fuzz.targets import TARGETS

    seconds, names = int(arguments[0]), arguments[1:] or [*TARGETS, LAUNCHER]
    failed = [name for name in names if not (fuzz_launcher if name == LAUNCHER else run_target)(name, seconds)]
    print(f"failed: {', '.join(failed)}" if failed else "nothing failed")
    return 1 if failed else 0


def run_target(name: str, seconds: int) -> bool:
    """Fuzz one target; whether nothing failed."""
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    how = follow_coverage if find_spec("atheris") else mutate_blindly
    process = multiprocessing.get_context("spawn").Process(target=how, args=(name, seconds))
    process.start()
    process.join(seconds + 120)
    if process.is_alive():
        process.kill()
    print(f"{name}: {'ok' if process.exitcode == 0 else f'FAILED ({process.exitcode})'}", flush=True)
    if not any((CORPUS / name).iterdir()):
        (CORPUS / name).rmdir()
    return process.exitcode == 0


def fuzz_launcher(name: str, seconds: int) -> bool:
    """Fuzz the launcher's parsers, which are compiled with sanitizers; whether nothing failed."""
    from launcher.conftest import compile_parsers
    from launcher.test_parsers import GROUP, MANIFEST, PASSWD

    seeds = [MANIFEST, f"app:video\n--\n{PASSWD}\n--\n{GROUP}", "42 (sh) S 7 42 42 0 -1"]
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        program, failing = Path(directory, "parsers"), CORPUS / name / "crash"
        compile_parsers(program)
        end, state = time.monotonic() + seconds, random.Random().getrandbits(32)
        while time.monotonic() < end and not failing.exists():
            state += 1
            command = [program, "fuzz", "20000", str(state), failing]
            seed = seeds[state % len(seeds)].encode()
            subprocess.run(command, input=seed, stdout=subprocess.DEVNULL, check=False, env=SANITIZERS)
    passed = not failing.exists()
    print(f"{name}: {'ok' if passed else f'FAILED on {failing}'}", flush=True)
    return passed


def follow_coverage(name: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["warmstart"]):
        from fuzz.targets import SEEDS, TARGETS
    logging.disable()
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(SEEDS[name]()):
            (Path(seeds) / str(number)).write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            f"-timeout={INPUT_S}",
            f"-rss_limit_mb={MEMORY_BYTES >> 20}",
            f"-max_len={1 << 20}",
            f"-artifact_prefix={CORPUS / name}/",
            "-verbosity=0",
        ]
        atheris.Setup([name, *options, seeds, str(CORPUS / name)], TARGETS[name])
        atheris.Fuzz()


def mutate_blindly(name: str, seconds: int) -> None:
    from fuzz.targets import SEEDS, TARGETS

    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _on_alarm)
    draw, end, count = random.Random(), time.monotonic() + seconds, 0
    seeds = [*SEEDS[name](), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]
    for seed in seeds:
        run_input(name, TARGETS[name], seed)
    while time.monotonic() < end:
        run_input(name, TARGETS[name], mutate(draw, seeds))
        count += 1
    print(f"{name}: {count} inputs", flush=True)


def run_input(name: str, target: Callable[[bytes], None], data: bytes) -> None:
    """Run a target; an input that it fails on is kept, and ends the run."""
    signal.alarm(INPUT_S)
    try:
        target(data)
    except BaseException:
        signal.alarm(0)
        path = CORPUS / name / f"crash-{sha256(data).hexdigest()[:16]}"
        path.write_bytes(data)
        traceback.print_exc(limit=-6)
        print(f"{name}: failed on {path}", flush=True)
        sys.exit(1)
    finally:
        signal.alarm(0)


def _on_alarm(*_: object) -> None:
    raise TimeoutError(f"one input took more than {INPUT_S} s")


def mutate(draw: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds with a few changes: a byte, a telling word, a piece less, a piece twice, a piece of another."""
    data = bytearray(draw.choice(seeds))
    for _ in range(1 << draw.randrange(6)):
        at, length = draw.randrange(len(data) + 1), 1 << draw.randrange(10)
        match draw.randrange(6):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                data[at : at + draw.randrange(8)] = draw.choice(TELLING)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                other = draw.choice(seeds)
                start = draw.randrange(len(other) + 1)
                data[at : at + length] = other[start : start + length]
            case _:
                number = draw.choice((0, 1, 1 << 31, (1 << 32) - 1, draw.randrange(1 << 16)))
                data[at : at + 4] = number.to_bytes(4, "little")
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
