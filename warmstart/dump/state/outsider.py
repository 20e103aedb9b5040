"""Be a process of a container that no Landlock rule of the container binds. Runs as a program of its own.

Landlock keeps a process from looking into those outside its domain. So a thread that is bound may not look into this
process, though it has the same user, and no privileges that the thread lacks.

A container cannot do anything with it: it is in the container's namespaces, runs a few instructions from memory, may
make no system call but the one that ends it, and is a zombie when its number is told. For that moment it must be an
ordinary process: newer kernels (Linux 6.18.44, for one) let nobody look into a zombie that was not dumpable.

Protocol: the arguments are a process of the container and USER:GROUP pairs. Each line of the output is such a pair and
the number of its process in the container. If the kernel keeps anybody from looking into it, there is no line. The
processes are gone when standard input ends. Only the standard library is imported, and little of it: this takes 15 ms.

Sources: landlock(7), ptrace(2), `hook_ptrace_access_check` in security/landlock/task.c of Linux.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWPID = 0x20000000
_NAMESPACES = ("cgroup", "ipc", "uts", "net", "mnt")
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 4, 22, 38, 2
_CAPSET, _GET_ROBUST_LIST, _EXECVEAT, _EXIT = 126, 274, 322, 60
_CAPABILITIES, _AT_EMPTY_PATH = 0x20080522, 0x1000
_AUDIT_X86_64 = 0xC000003E

# exit(0) of x86-64: xor edi, edi; mov eax, 60; syscall
_CODE = b"\x31\xff\xb8\x3c\x00\x00\x00\x0f\x05"
_START = 0x400000 + 64 + 56


def _make_program() -> int:
    """Return the descriptor of a program that ends at once."""
    size = 64 + 56 + len(_CODE)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("=HHIQQQIHHHHHH", 2, 62, 1, _START, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header += struct.pack("=IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 0x1000)
    program = os.memfd_create("outsider", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(program, header + _CODE)
    # A descriptor that can be written to cannot be executed.
    readable = os.open(f"/proc/self/fd/{program}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(program)
    return readable


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _join(namespaces: list[int], user: int, group: int) -> None:
    """Enter a container as one of its users, without privileges, so that it cannot look into this process yet."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    for each in namespaces:
        _check(_libc.setns(each, 0))
        os.close(each)
    os.chdir("/")
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    _check(_libc.syscall(_CAPSET, struct.pack("=Ii", _CAPABILITIES, 0), bytes(24)))


def _restrict() -> None:
    """Forbid all system calls but exit and execveat."""
    steps = [(0x20, 0, 0, 4), (0x15, 1, 0, _AUDIT_X86_64), (0x06, 0, 0, 0x80000000)]
    steps += [(0x20, 0, 0, 0), (0x15, 2, 0, _EXIT), (0x15, 1, 0, _EXECVEAT), (0x06, 0, 0, 0x50001)]
    steps += [(0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("=H6xQ", len(steps), ctypes.addressof(code))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(_libc.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0))


def _fork_outsider(namespaces: list[int], user: int, group: int, program: int) -> tuple[int, int]:
    """Return the number of a zombie here, and the one in the container."""
    own_number, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(told, str(os.getpid()).encode())
            _join(namespaces, user, group)
            none = ctypes.c_void_p(0)
            arguments = (ctypes.c_long(_EXECVEAT), program, b"", none, none, _AT_EMPTY_PATH)
            _restrict()
            _libc.syscall(*arguments)
        finally:
            os._exit(1)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    number = int(os.read(own_number, 10))
    os.close(own_number)
    os.close(told)
    return pid, number


def _can_look(namespaces: list[int], user: int, group: int, number: int) -> bool:
    """Whether a process that nothing binds may look into a zombie."""
    pid = os.fork()
    if pid == 0:
        try:
            head, size = ctypes.c_void_p(), ctypes.c_size_t()
            _join(namespaces, user, group)
            _check(_libc.syscall(_GET_ROBUST_LIST, number, ctypes.byref(head), ctypes.byref(size)))
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _has_ended_well(pid: int) -> bool:
    status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return status is not None and status.si_code == os.CLD_EXITED and status.si_status == 0


def main() -> None:
    """Make the processes, tell their numbers, and end them with standard input."""
    container, *pairs = sys.argv[1:]
    namespaces = [os.open(f"/proc/{container}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in _NAMESPACES]
    pids = os.open(f"/proc/{container}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    _check(_libc.setns(pids, _CLONE_NEWPID))
    program = _make_program()
    made = []
    try:
        for pair in pairs:
            user, group = map(int, pair.split(":"))
            pid, number = _fork_outsider(namespaces, user, group, program)
            made.append(pid)
            if _has_ended_well(pid) and _can_look(namespaces, user, group, number):
                print(pair, number)  # noqa: T201
        print(flush=True)  # noqa: T201
        sys.stdin.read()
    finally:
        # The container could not end before its zombies.
        for pid in made:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
