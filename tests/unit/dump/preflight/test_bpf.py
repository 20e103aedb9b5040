from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.dump.preflight.bpf import ALLOW, UNKNOWN_VERDICT, find_verdicts, list_return_values

X86_64 = 0xC000003E
ERRNO = 0x00050000
KILL_PROCESS = 0x80000000

LOAD_NUMBER, LOAD_ARCHITECTURE, LOAD_ARGUMENT = (0x20, 0, 0, 0), (0x20, 0, 0, 4), (0x20, 0, 0, 16)


def assemble(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<HBBI", *each) for each in instructions)


def answer(value: int) -> tuple[int, int, int, int]:
    return (0x06, 0, 0, value)


def if_equal(value: int, then: int, other: int) -> tuple[int, int, int, int]:
    return (0x15, then, other, value)


DENY_ONE = assemble(LOAD_NUMBER, if_equal(83, 0, 1), answer(ERRNO | 13), answer(ALLOW))


def test_a_filter_answers_by_number():
    assert find_verdicts(DENY_ONE, X86_64, 83) == {ERRNO}
    assert find_verdicts(DENY_ONE, X86_64, 11) == {ALLOW}


def test_a_filter_answers_by_architecture():
    program = assemble(LOAD_ARCHITECTURE, if_equal(X86_64, 1, 0), answer(KILL_PROCESS), answer(ALLOW))
    assert find_verdicts(program, X86_64, 1) == {ALLOW}
    assert find_verdicts(program, 0x40000003, 1) == {KILL_PROCESS}


def test_an_argument_may_be_anything():
    program = assemble(LOAD_ARGUMENT, if_equal(7, 0, 1), answer(ERRNO | 1), answer(ALLOW))
    assert find_verdicts(program, X86_64, 1) == {ERRNO, ALLOW}


def test_scratch_memory_arithmetic_and_the_index_register():
    store, index, add = (0x02, 0, 0, 3), (0x61, 0, 0, 3), (0x0C, 0, 0, 0)
    double = assemble(LOAD_NUMBER, store, index, add, if_equal(84, 0, 1), answer(ERRNO), answer(ALLOW))
    assert find_verdicts(double, X86_64, 42) == {ERRNO}
    assert find_verdicts(double, X86_64, 41) == {ALLOW}


def test_an_answer_that_is_computed_from_an_argument_is_not_known():
    assert find_verdicts(assemble(LOAD_ARGUMENT, (0x16, 0, 0, 0)), X86_64, 1) == {UNKNOWN_VERDICT}


def test_a_filter_of_very_many_ways_is_still_read():
    ways = [step for number in range(400) for step in (LOAD_ARGUMENT, if_equal(number, 0, 1), (0x04, 0, 0, 1))]
    program = assemble(*ways, LOAD_NUMBER, if_equal(83, 0, 1), answer(ERRNO), answer(ALLOW))
    assert find_verdicts(program, X86_64, 83) == {ERRNO}


def test_all_answers_are_listed():
    assert list_return_values(DENY_ONE) == {ERRNO, ALLOW}


@pytest.mark.parametrize("program", [b"", b"1234567", assemble(LOAD_NUMBER), assemble((0x15, 9, 9, 0), answer(0))])
def test_what_the_kernel_would_not_have_taken_is_refused(program):
    with pytest.raises(ValueError, match="a seccomp filter"):
        find_verdicts(program, X86_64, 1)


@given(st.lists(st.tuples(st.integers(0, 255), *[st.integers(0, 255)] * 2, st.integers(0, 2**32 - 1)), max_size=40))
def test_anything_is_read_or_refused(instructions):
    with contextlib.suppress(ValueError):
        find_verdicts(assemble(*instructions), X86_64, 1)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="by numbers of x86-64")
def test_the_kernel_answers_the_same():
    """The child denies itself getppid(2), because nothing else needs it."""
    code = (
        "import ctypes, struct, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "program = ctypes.create_string_buffer(bytes.fromhex(sys.argv[1]))\n"
        "fprog = struct.pack('HxxxxxxQ', len(program) // 8, ctypes.addressof(program))\n"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, fprog, 0, 0) == 0\n"
        "print(libc.syscall(110), libc.syscall(39) > 0)\n"
    )
    program = assemble(LOAD_NUMBER, if_equal(110, 0, 1), answer(ERRNO | 5), answer(ALLOW))
    argv = [sys.executable, "-c", code, program.hex()]
    assert subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout == "-1 True\n"
    assert find_verdicts(program, X86_64, 110) == {ERRNO}
    assert find_verdicts(program, X86_64, 39) == {ALLOW}
