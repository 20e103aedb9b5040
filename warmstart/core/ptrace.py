"""Have a thread of another process make system calls, and continue as if nothing had happened.

Some settings of a process are only told to itself. So the thread is stopped while it waits in a system call, makes a
few others from the same instruction, and then repeats its own. Its memory is neither written nor trusted: the kernel
tells which call the thread makes and what the result is, and results that do not fit into a register go to a page that
is mapped for this purpose. A process that changes its code at the same moment gains nothing; it is let go.

Sources: ptrace(2), and CRIU's `compel` for the difficulties: system calls that restart, seccomp, signals, rseq. Only
x86-64 is supported.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

STOP_S = 0.5
#: The calls that are made do not wait. A thread that does not return from one has changed its code.
CALL_S = 2.0
SPIN_S = 0.001
_STOPS = 3
PAGE = 4096

_CONT, _GET_REGISTERS, _SET_REGISTERS, _DETACH, _SYSCALL = 7, 12, 13, 17, 24
_SET_OPTIONS, _SEIZE, _INTERRUPT, _GET_MASK, _SET_MASK = 0x4200, 0x4206, 0x4207, 0x420A, 0x420B
_GET_SYSCALL_INFO, _GET_RSEQ, _GET_DISPATCH = 0x420E, 0x420F, 0x4211
_SYSCALL_STOPS, _KILL_AT_EXIT, _SUSPEND_SECCOMP = 0x1, 1 << 20, 1 << 21
# The low byte of the first is the signal that stopped the process, if one did.
_EVENT_STOP, _SYSCALL_STOP = 128 << 8, signal.SIGTRAP | 0x80
_WALL = 0x40000000
_ENTRY, _EXIT = 1, 2
_AUDIT_X86_64 = 0xC000003E

_REGISTERS = struct.Struct("=27Q")
# Their indices in struct user_regs_struct.
_R10, _R9, _R8, _RAX, _RDX, _RSI, _RDI, _ORIG_RAX, _RIP, _CS = 7, 8, 9, 10, 12, 13, 14, 15, 16, 17
_ARGUMENTS = (_RDI, _RSI, _RDX, _R10, _R8, _R9)
_USER_CS = 0x33  # of 64-bit code
_INSTRUCTION = b"\x0f\x05"  # syscall
_NONE = (1 << 64) - 1

_MMAP, _MUNMAP = 9, 11


class NotNowError(Exception):
    """The thread cannot make system calls now: it is running, or has ended."""


def is_supported() -> bool:
    """Whether threads can be made to call the kernel on this machine."""
    return platform.machine() == "x86_64"


@dataclass(frozen=True)
class StoppedThread:
    """A thread that waits in a system call, and makes others instead.

    Attributes:
        number: its number in this process's PID namespace.
        registers: its registers when it was stopped.
        instruction: address of the instruction that makes its system call.
    """

    number: int
    registers: Sequence[int]
    instruction: int

    def call(self, number: int, *arguments: int) -> int:
        """Have it make a system call, which must not wait.

        Raises:
            OSError: the call failed.
            NotNowError: the thread made another call, or none.
        """
        given = [argument & _NONE for argument in (*arguments, *[0] * 6)[:6]]
        registers = list(self.registers)
        registers[_RAX], registers[_ORIG_RAX], registers[_RIP] = number, _NONE, self.instruction
        for index, value in zip(_ARGUMENTS, given, strict=True):
            registers[index] = value
        _set_registers(self.number, registers)
        self._continue(_SYSCALL, _SYSCALL_STOP)
        operation, *made = self._read_call()
        if operation != _ENTRY or made != [number, *given]:
            raise NotNowError("it makes another call")
        self._continue(_SYSCALL, _SYSCALL_STOP)
        operation, result, *_ = self._read_call()
        if operation != _EXIT:
            raise NotNowError("it does not return from the call")
        signed = result - (1 << 64) if result >> 63 else result
        if -PAGE < signed < 0:
            raise OSError(-signed, os.strerror(-signed))
        return signed

    @contextlib.contextmanager
    def page(self) -> Iterator[int]:
        """Map a page for results, and yield its address."""
        protection, flags = 0x3, 0x22  # read and write; private and anonymous
        address = self.call(_MMAP, 0, PAGE, protection, flags, _NONE, 0)
        yield address
        # After an error the thread makes no further calls, and goes on with a page more.
        self.call(_MUNMAP, address, PAGE)

    def read(self, address: int, size: int) -> bytes:
        """Read its memory, which any of its threads may be changing."""
        with open(f"/proc/{self.number}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
            data = os.pread(memory.fileno(), size, address)
        if len(data) != size:
            raise NotNowError("its memory is gone")
        return data

    def read_rseq(self) -> tuple[int, int]:
        """Return address and size of its area for restartable sequences."""
        buffer = ctypes.create_string_buffer(24)
        _ptrace(_GET_RSEQ, self.number, 24, ctypes.addressof(buffer))
        address, size = struct.unpack_from("=QI", buffer)
        return address, size

    def _continue(self, request: int, expected: int) -> None:
        # A thread of a stopped process stops once more.
        for _ in range(_STOPS):
            _ptrace(request, self.number)
            if not (found := _wait(self.number, CALL_S)) & _EVENT_STOP:
                break
        if found != expected:
            raise NotNowError(f"it stopped otherwise ({found:#x})")

    def _read_call(self) -> list[int]:
        """Return the kind of stop, then number and arguments of the call, or its result."""
        buffer = ctypes.create_string_buffer(88)
        _ptrace(_GET_SYSCALL_INFO, self.number, len(buffer), ctypes.addressof(buffer))
        operation, architecture = struct.unpack_from("=B3xI", buffer)
        if architecture != _AUDIT_X86_64:
            raise NotNowError("it makes calls of another architecture")
        return [operation, *struct.unpack_from("=7Q", buffer, 24)]


@contextlib.contextmanager
def stop_thread(number: int, *, is_filtered: bool) -> Iterator[StoppedThread]:
    """Stop a thread that waits in a system call, for the length of a `with` block.

    The calling thread must end soon (`run_in_own_thread`): then the kernel lets go of what did not stop in time. The
    call restarts by itself, as if the process had been stopped and continued. A stopped
    one stays stopped. The block must be short.

    Args:
        number: of the thread in this process's PID namespace.
        is_filtered: whether it has seccomp filters, which are suspended.

    Raises:
        OSError: it may not be traced.
        NotNowError: it does not wait in a system call, or did not go on with it as expected.
    """
    _ptrace(_SEIZE, number)
    _ptrace(_INTERRUPT, number)
    if not _wait(number, STOP_S) & _EVENT_STOP:  # it ends, or a disk keeps it waiting
        with contextlib.suppress(OSError):
            _ptrace(_DETACH, number)
        raise NotNowError("it does not stop")
    try:
        registers, instruction = _find_call(number)
        with _prepared(number, registers, is_filtered=is_filtered):
            yield StoppedThread(number, registers, instruction)
    finally:
        with contextlib.suppress(OSError):  # it was killed
            _ptrace(_DETACH, number)


def _find_call(number: int) -> tuple[Sequence[int], int]:
    """Return the registers of a thread that waits in a system call, and the address of the call's instruction.

    After a dump that leaves it stopped, the thread is about to make its call again.
    """
    buffer = ctypes.create_string_buffer(_REGISTERS.size)
    _ptrace(_GET_REGISTERS, number, 0, ctypes.addressof(buffer))
    registers = _REGISTERS.unpack_from(buffer)
    with open(f"/proc/{number}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        code = os.pread(memory.fileno(), 4, registers[_RIP] - 2)
    waits = registers[_ORIG_RAX] != _NONE and code[:2] == _INSTRUCTION
    if registers[_CS] != _USER_CS or not (waits or code[2:] == _INSTRUCTION):
        raise NotNowError("it is not in a system call")
    instruction = registers[_RIP] - 2 if waits else registers[_RIP]
    with contextlib.suppress(OSError):  # before Linux 6.4
        dispatch = ctypes.create_string_buffer(32)
        _ptrace(_GET_DISPATCH, number, len(dispatch), ctypes.addressof(dispatch))
        if any(dispatch.raw[:8]):
            raise NotNowError("it dispatches its system calls itself")
    return registers, instruction


@contextlib.contextmanager
def _prepared(number: int, registers: Sequence[int], *, is_filtered: bool) -> Iterator[None]:
    """Keep signals and filters away from a stopped thread; afterwards, give it back what it had.

    If this process is killed meanwhile, so is the thread: it must not run on with foreign registers.
    """
    options = _SYSCALL_STOPS | _KILL_AT_EXIT | (_SUSPEND_SECCOMP if is_filtered else 0)
    _ptrace(_SET_OPTIONS, number, 0, options)
    mask, full = ctypes.create_string_buffer(8), ctypes.create_string_buffer(b"\xff" * 8)
    _ptrace(_GET_MASK, number, 8, ctypes.addressof(mask))
    _ptrace(_SET_MASK, number, 8, ctypes.addressof(full))
    try:
        yield
    finally:
        # Only where signals are looked at does the kernel restart the call.
        _stop_again(number)
        _set_registers(number, registers)
        _ptrace(_SET_MASK, number, 8, ctypes.addressof(mask))
        _ptrace(_SET_OPTIONS, number, 0, 0)


def _stop_again(number: int) -> None:
    """Have a thread stop before it runs another instruction, wherever it is."""
    for _ in range(_STOPS):
        with contextlib.suppress(OSError):  # it is running
            _skip_call(number)
            _ptrace(_INTERRUPT, number)
            _ptrace(_CONT, number)
        _ptrace(_INTERRUPT, number)
        if _wait(number, CALL_S) & _EVENT_STOP:
            return
    raise NotNowError("it does not stop")


def _skip_call(number: int) -> None:
    """Have a thread that is about to make a system call make none."""
    buffer = ctypes.create_string_buffer(88)
    _ptrace(_GET_SYSCALL_INFO, number, len(buffer), ctypes.addressof(buffer))
    if buffer.raw[0] == _ENTRY:
        registers = ctypes.create_string_buffer(_REGISTERS.size)
        _ptrace(_GET_REGISTERS, number, 0, ctypes.addressof(registers))
        changed = list(_REGISTERS.unpack_from(registers))
        changed[_ORIG_RAX] = _NONE
        _set_registers(number, changed)


def _set_registers(number: int, registers: Sequence[int]) -> None:
    buffer = ctypes.create_string_buffer(_REGISTERS.pack(*registers), _REGISTERS.size)
    _ptrace(_SET_REGISTERS, number, 0, ctypes.addressof(buffer))


def _wait(number: int, limit_s: float) -> int:
    """Wait until a thread stops, and return how; 0 if it has ended, or does not stop in time."""
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < limit_s:
        try:
            found, status = os.waitpid(number, os.WNOHANG | _WALL)
        except ChildProcessError:
            return 0
        if found:
            return status >> 8 if os.WIFSTOPPED(status) else 0
        # Usually it takes some microseconds.
        os.sched_yield() if waited_s < SPIN_S else time.sleep(SPIN_S)
    return 0


@cache
def _load_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long
    return libc


def _ptrace(request: int, number: int, address: int = 0, data: int = 0) -> None:
    if _load_libc().ptrace(request, number, address, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace: {os.strerror(code)}") if code != errno.ESRCH else NotNowError("it has ended")
