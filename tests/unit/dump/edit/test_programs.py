"""Read executables and libraries."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warmstart.dump.edit.programs import Program, read_program, read_programs

CALLER = "#include <sys/mman.h>\nint main(void) { return madvise(0, 0, MADV_DONTNEED); }"
GROWER = "#define _GNU_SOURCE\n#include <sys/mman.h>\nint main(void) { return mremap(0, 0, 0, 0) != 0; }"
QUIET = "int main(void) { return 0; }"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


def compile_c(directory: Path, source: str, *options: str) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this machine")
    output = directory / f"program{abs(hash((source, options)))}"
    if not output.exists():
        gcc = ["gcc", "-x", "c", "-", "-o", output, *options]
        subprocess.run(gcc, input=source, text=True, check=True, timeout=60)
    return output


@pytest.mark.parametrize(("source", "calls"), [(QUIET, False), (CALLER, True), (GROWER, True)])
@pytest.mark.parametrize("options", [(), ("-s",), ("-no-pie",), ("-Wl,--hash-style=sysv",)])
def test_dynamic_programs(directory: Path, source: str, calls: bool, options: tuple[str, ...]) -> None:
    program = read_program(compile_c(directory, source, *options))
    assert program.interpreter.startswith("ld-")
    assert program == Program(program.interpreter, calls)


@pytest.mark.parametrize(("source", "calls"), [(QUIET, False), (CALLER, True)])
def test_libraries(directory: Path, source: str, calls: bool) -> None:
    assert read_program(compile_c(directory, source, "-shared", "-fPIC")) == Program(calls_madvise=calls)


@pytest.mark.parametrize("options", [("-static",), ("-static-pie",)])
def test_static_programs(directory: Path, options: tuple[str, ...]) -> None:
    assert read_program(compile_c(directory, CALLER, *options)).interpreter == ""


def go_info(version: bytes, flags: int = 2) -> bytes:
    return b"\xff Go buildinf:" + bytes([8, flags]) + bytes(16) + bytes([len(version)]) + version


@pytest.mark.parametrize(
    ("info", "found"),
    [
        (go_info(b"go1.24.4"), (1, 24)),
        (go_info(b"go1.26-devel_0123456789 X:none"), (1, 26)),
        (go_info(b"go2.0"), (2, 0)),
        (go_info(b"devel +0123456789"), (0, 0)),
        (go_info(b"go1.17", flags=0), (0, 0)),
        (b"\xff Go buildinf:", (0, 0)),
    ],
)
def test_the_version_of_go(directory: Path, info: bytes, found: tuple[int, int]) -> None:
    words = ",".join(str(byte) for byte in info)
    source = f'char other[] = {{1,2,3}}; char info[] __attribute__((aligned(16), section(".data"))) = {{{words}}};'
    program = read_program(compile_c(directory, f"{source} {QUIET}"))
    assert program.go == found


def test_the_version_of_real_go() -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go on this machine")
    said = subprocess.run([go, "version", go], capture_output=True, text=True, check=True).stdout
    minor = int(said.split("go1.")[1].split(".")[0])
    assert read_program(Path(go).resolve()).go == (1, minor)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(58)])
def test_what_is_no_program(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises((ValueError, struct.error)):
        read_program(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_program_is_read_or_refused(directory: Path, data: st.DataObject) -> None:
    content = bytearray(compile_c(directory, CALLER, "-s").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(content) - 8, 1 << 10)))
        content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    damaged = directory / "damaged"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_program(damaged)
    except (ValueError, struct.error):
        return


@pytest.mark.linux
@pytest.mark.skipif(os.geteuid() != 0, reason="/proc/PID/map_files takes root")
def test_programs_of_a_process() -> None:
    code = "import time; print('ready', flush=True); time.sleep(60)"
    environment = {**os.environ, "GODEBUG": "x=1,madvdontneed=0"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            programs = read_programs(Path("/proc"), child.pid)
        finally:
            child.kill()
    executable = str(Path(sys.executable).resolve())
    assert programs[executable].interpreter.startswith("ld-")
    assert all(program.go_keeps_no_zeros for program in programs.values())
    assert len(programs) > 2
    assert not any(path.endswith(".py") or "locale" in path for path in programs)
