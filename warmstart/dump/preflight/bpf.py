"""Evaluate seccomp(2) filters, in classic BPF, for a system call with unknown arguments.

Instructions: `linux/filter.h` and `linux/bpf_common.h`; those that seccomp allows: `seccomp_check_filter` in the
kernel's kernel/seccomp.c. Jumps only lead forward, so one pass over the instructions covers every path.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

ALLOW, LOG, USER_NOTIFICATION = 0x7FFF0000, 0x7FFC0000, 0x7FC00000
UNKNOWN_VERDICT = 0
_ACTION = 0xFFFF0000

_INSTRUCTION = struct.Struct("<HBBI")
_WORD = 0xFFFFFFFF
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_DATA_BYTES = 64  # size of struct seccomp_data
_CELLS = 16
# A filter with many branches on arguments has too many paths to follow each.
_MAX_STATES = 256

_CLASS = 0x07
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_MODE = 0xE0
_IMM, _ABS, _MEM, _LEN = 0x00, 0x20, 0x60, 0x80
_OPERATION = 0xF0
_SOURCE_X = 0x08
_RESULT = 0x18
_RESULT_A = 0x10
_JA = 0x00
_TXA = 0x80

_Number = int | None  # None: unknown

_ARITHMETIC: Mapping[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x30: lambda a, b: a // b if b else 0,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << b if b < 32 else 0,
    0x70: lambda a, b: a >> b if b < 32 else 0,
    0x80: lambda a, _: -a,
    0xA0: lambda a, b: a ^ b,
}
_COMPARISONS: Mapping[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: bool(a & b),
}


@dataclass(frozen=True)
class _State:
    """State of the machine before an instruction: accumulator, index register, scratch memory."""

    a: _Number = 0
    x: _Number = 0
    cells: tuple[_Number, ...] = field(default=(0,) * _CELLS)


_ANY = _State(None, None, (None,) * _CELLS)


def find_verdicts(program: bytes, architecture: int, number: int) -> frozenset[int]:
    """Return the actions (SECCOMP_RET_*, without their data) that a filter may return for a system call.

    Args:
        program: instructions, as in `struct sock_filter`.
        architecture: AUDIT_ARCH_* of the system call.
        number: number of the system call.

    Returns:
        The actions. They include UNKNOWN_VERDICT (the same as SECCOMP_RET_KILL_THREAD) if one cannot be determined.

    Raises:
        ValueError: the kernel would not have accepted the program.
    """
    instructions = _read(program)
    pending: list[set[_State]] = [set() for _ in instructions]
    pending[0].add(_State())
    verdicts: set[int] = set()
    for at, (code, if_true, if_false, value) in enumerate(instructions):
        states = pending[at] if len(pending[at]) <= _MAX_STATES else {_ANY}
        for state in states:
            if code & _CLASS == _RET:
                result = state.a if code & _RESULT == _RESULT_A else value
                verdicts.add(UNKNOWN_VERDICT if result is None else result & _ACTION)
            elif code & _CLASS == _JMP:
                for step in _jump(state, code, (if_true, if_false), value):
                    _add_state(pending, at + 1 + step, state)
            else:
                _add_state(pending, at + 1, _step(state, code, value, (architecture, number)))
    return frozenset(verdicts)


def list_return_values(program: bytes) -> frozenset[int]:
    """Return the actions of all return instructions of a filter.

    Raises:
        ValueError: as for `find_verdicts`.
    """
    return frozenset(value & _ACTION for code, _, _, value in _read(program) if code & _CLASS == _RET)


def _read(program: bytes) -> list[tuple[int, int, int, int]]:
    if not program or len(program) % _INSTRUCTION.size:
        raise ValueError(f"a seccomp filter of {len(program)} bytes")
    return list(_INSTRUCTION.iter_unpack(program))


def _add_state(pending: list[set[_State]], to: int, state: _State) -> None:
    if to >= len(pending):
        raise ValueError("a seccomp filter that jumps beyond its end")
    pending[to].add(state)


def _jump(state: _State, code: int, steps: tuple[int, int], value: int) -> Iterable[int]:
    if code & _OPERATION == _JA:
        return (value,)
    operand = state.x if code & _SOURCE_X else value
    compare = _COMPARISONS.get(code & _OPERATION)
    if compare is None:
        raise ValueError(f"a seccomp filter with an unknown jump {code:#x}")
    if state.a is None or operand is None:
        return steps
    return (steps[0] if compare(state.a, operand) else steps[1],)


def _step(state: _State, code: int, value: int, call: tuple[int, int]) -> _State:
    kind = code & _CLASS
    if kind == _LD:
        return replace(state, a=_load(state, code, value, call))
    if kind == _LDX:
        return replace(state, x=_load(state, code, value, call))
    if kind in (_ST, _STX):
        stored = state.a if kind == _ST else state.x
        return replace(state, cells=tuple(stored if at == value else cell for at, cell in enumerate(state.cells)))
    if kind == _MISC:
        return replace(state, a=state.x) if code & _OPERATION == _TXA else replace(state, x=state.a)
    operation = _ARITHMETIC.get(code & _OPERATION)
    if operation is None:
        raise ValueError(f"a seccomp filter with an unknown operation {code:#x}")
    operand = state.x if code & _SOURCE_X else value
    known = state.a is not None and operand is not None
    return replace(state, a=operation(state.a or 0, operand or 0) & _WORD if known else None)


def _load(state: _State, code: int, value: int, call: tuple[int, int]) -> _Number:
    mode = code & _MODE
    if mode == _IMM:
        return value
    if mode == _LEN:
        return _DATA_BYTES
    if mode == _MEM:
        return state.cells[value] if value < _CELLS else None
    if mode != _ABS:
        raise ValueError(f"a seccomp filter with an unknown load {code:#x}")
    return {_ARCHITECTURE_AT: call[0], _NUMBER_AT: call[1]}.get(value)
