"""Read the settings that the kernel tells only to the thread itself: prctl(2), timers, handlers of signals, keyrings.

Each is read by a system call that the thread makes (`core/ptrace.py`), with numbers and layouts of x86-64. On other
machines, and of threads that never wait, these facts are unknown.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from warmstart.core.own_thread import run_in_own_thread
from warmstart.core.ptrace import NotNowError, StoppedThread, is_supported, stop_thread
from warmstart.dump.proc.status import read_status
from warmstart.dump.state.landlock import is_kept_out
from warmstart.dump.state.model import LANDLOCK, Facts, KernelState

#: Threads beyond the first one of each process are asked as long as this takes.
OTHERS_S = 0.03
#: In addition, whether Landlock rules bind them.
RESTRICTIONS_S = 0.1
_ATTEMPTS, _PAUSE_S = 3, 0.002

_SIGACTION, _GETITIMER, _SIGALTSTACK, _MODIFY_LDT, _PRCTL, _ARCH_PRCTL = 13, 36, 131, 154, 157, 158
_TIMER_GETTIME, _GET_MEMPOLICY, _KEYCTL, _GET_ROBUST_LIST = 224, 239, 250, 274
_KEYCTL_READ = 11
_MEMORY_NODES = 1024

#: Settings that prctl(2) returns: of a thread, and of its process.
THREAD_RESULTS = {"securebits": 27, "machine check policy": 34, "I/O flusher": 58}
PROCESS_RESULTS = {"dumpable": 3, "huge pages off": 42, "no writable code": 66, "merges memory": 68}
#: Settings that it writes to an address, with their sizes in bytes.
THREAD_VALUES = {"parent-death signal": (2, 4), "timestamp counter": (25, 4)}
PROCESS_VALUES = {"child subreaper": (37, 4)}
#: Keyrings by the number that stands for them, see keyctl(2). The user's are shared with other processes.
KEYRINGS = {"keys of the thread": -1, "keys of the process": -2, "keys of the session": -3}
INTERVAL_TIMERS = ("real", "virtual", "profiling")
_L1D_FLUSH, _GET_TID_ADDRESS = 2, 40
_GET_CPUID, _GET_CPU_FEATURES = 0x1011, 0x1022


@dataclass(frozen=True)
class AskedThread:
    """A thread to be asked.

    Attributes:
        subject: its subject.
        number: its number in this process's PID namespace.
        is_filtered: whether it has seccomp filters.
        owner: its real USER:GROUP if Landlock rules may bind it; else "".
    """

    subject: str
    number: int
    is_filtered: bool
    owner: str = ""


@dataclass(frozen=True)
class AskedProcess:
    """A process to be asked.

    Attributes:
        subject: its subject.
        threads: its threads, the first one first.
        signals: numbers of the signals that it handles or ignores.
        timers: numbers of its POSIX timers.
    """

    subject: str
    threads: Sequence[AskedThread]
    signals: Sequence[int]
    timers: Sequence[int]


def ask(processes: Sequence[AskedProcess], before: KernelState, outsiders: Mapping[str, int]) -> Mapping[str, Facts]:
    """Ask processes and their threads, and return the facts by subject. What cannot be asked is left out.

    Args:
        processes: processes.
        before: an earlier state. Of a process's threads with the same facts in it, one is asked.
        outsiders: processes without Landlock rules, see `landlock.py`, by USER:GROUP; empty to ask about no rules.
    """
    return run_in_own_thread(lambda: _Asker(before, outsiders).ask(processes)) if is_supported() and processes else {}


@dataclass(frozen=True)
class _Asker:
    before: KernelState
    outsiders: Mapping[str, int]
    found: dict[str, dict[str, str]] = field(default_factory=dict)

    def ask(self, processes: Sequence[AskedProcess]) -> Mapping[str, Facts]:
        for process in processes:
            self._ask_process(process)
        began = time.monotonic()
        for process in processes:
            if not self._ask_others(process, began):
                break
        return self.found

    def _ask_process(self, process: AskedProcess) -> None:
        """Ask the first thread of a process, and have another one tell about the process if that one cannot."""
        for thread in process.threads:
            shared: dict[str, str] = {}
            own = self._ask(thread, partial(_read_all, process, shared))
            if own and thread is process.threads[0]:
                self.found[thread.subject] = own
            if shared:
                self.found[process.subject] = shared
                return

    def _ask_others(self, process: AskedProcess, began: float) -> bool:
        """Ask the other threads of a process, and return whether there is time left for the next process."""
        known: set[Sequence[str | None]] = set()
        for thread in process.threads[1:]:
            elapsed_s = time.monotonic() - began
            if elapsed_s > OTHERS_S + RESTRICTIONS_S:
                return False
            settings = _list_settings(self.before, thread.subject)
            is_new = not self.before or (any(settings) and settings not in known)
            if is_new and elapsed_s <= OTHERS_S:
                found = self._ask(thread, _read_own)
                known |= {settings} if found else set()
            elif thread.owner in self.outsiders:
                found = self._ask(thread, _read_nothing)
            else:
                continue
            self.found[thread.subject] = found
        return True

    def _ask(self, thread: AskedThread, read: Callable[[StoppedThread, int], dict[str, str]]) -> dict[str, str]:
        """Stop a thread, and return what a function reads that gets it and the address of a page."""
        for _ in range(_ATTEMPTS):
            try:
                with (
                    stop_thread(thread.number, is_filtered=thread.is_filtered) as stopped,
                    stopped.page() as page,
                ):
                    outsider = self.outsiders.get(thread.owner)
                    bound = {LANDLOCK: "yes"} if outsider and is_kept_out(stopped, page, outsider) else {}
                    return {**read(stopped, page), **bound}
            except NotNowError:
                time.sleep(_PAUSE_S)
            except OSError:
                break
        return {}


def _list_settings(state: KernelState, subject: str) -> Sequence[str | None]:
    facts = state.subjects.get(subject, {})
    return tuple(facts.get(name) for name in _THREAD_READERS)


def _read_nothing(_: StoppedThread, __: int) -> dict[str, str]:
    return {}


def _read_own(stopped: StoppedThread, page: int) -> dict[str, str]:
    return dict(_read(stopped, page, _THREAD_READERS))


def _read_all(process: AskedProcess, shared: dict[str, str], stopped: StoppedThread, page: int) -> dict[str, str]:
    """Read the facts that a thread shares with its process into `shared`, and return its own."""
    shared["locks new mappings"] = "yes" if _locks_mappings(stopped) else "no"
    shared |= dict(_read(stopped, page, _PROCESS_READERS))
    shared |= dict(_read_lists(stopped, page, process))
    return _read_own(stopped, page)


def _locks_mappings(stopped: StoppedThread) -> bool:
    locked = read_locked(stopped.number)
    with stopped.page():
        return read_locked(stopped.number) > locked


def read_locked(number: int) -> int:
    """Return the size of a thread's locked memory in KiB."""
    return int(read_status(f"/proc/{number}").get("VmLck", "0 kB").split()[0])


_Reader = Callable[[StoppedThread, int], str]


def _read(stopped: StoppedThread, page: int, readers: Mapping[str, _Reader]) -> Iterator[tuple[str, str]]:
    for name, reader in readers.items():
        with contextlib.suppress(OSError):  # not in this kernel, or only for the privileged
            yield name, reader(stopped, page)


def _result_of(option: int, *arguments: int) -> _Reader:
    return lambda stopped, _: str(stopped.call(_PRCTL, option, *arguments))


def _value_of(option: int, size: int) -> _Reader:
    def read(stopped: StoppedThread, page: int) -> str:
        stopped.call(_PRCTL, option, page)
        return str(int.from_bytes(stopped.read(page, size), "little"))

    return read


def _read_dumpable(stopped: StoppedThread, _: int) -> str:
    return "yes" if stopped.call(_PRCTL, PROCESS_RESULTS["dumpable"]) == 1 else "no"


def _read_cpu_features(stopped: StoppedThread, page: int) -> str:
    stopped.call(_ARCH_PRCTL, _GET_CPU_FEATURES, page)
    return stopped.read(page, 8)[::-1].hex()


def _read_ldt(stopped: StoppedThread, page: int) -> str:
    return "yes" if stopped.call(_MODIFY_LDT, 0, page, 64) else "no"


def _read_memory_policy(stopped: StoppedThread, page: int) -> str:
    stopped.call(_GET_MEMPOLICY, page, page + 8, _MEMORY_NODES, 0, 0)
    mode, nodes = struct.unpack_from("=i4xQ", stopped.read(page, 16))
    return f"{mode & 0xFFFF} {nodes:x}"


def _read_signal_stack(stopped: StoppedThread, page: int) -> str:
    stopped.call(_SIGALTSTACK, 0, page)
    address, flags, size = struct.unpack("=Qi4xQ", stopped.read(page, 24))
    disabled, on_stack = 2, 1
    return f"{flags & ~on_stack} {size}" if address and not flags & disabled else ""


def _read_robust_list(stopped: StoppedThread, page: int) -> str:
    stopped.call(_GET_ROBUST_LIST, 0, page, page + 8)
    return _name_presence(stopped.read(page, 8))


def _read_cleared(stopped: StoppedThread, page: int) -> str:
    stopped.call(_PRCTL, _GET_TID_ADDRESS, page)
    return _name_presence(stopped.read(page, 8))


def _read_rseq(stopped: StoppedThread, _: int) -> str:
    address, size = stopped.read_rseq()
    return str(size if address else 0)


def _name_presence(address: bytes) -> str:
    """Tell whether there is an address. Itself, it is another one for each thread, and would bloat the record."""
    return "yes" if any(address) else "no"


def _keys_of(keyring: int) -> _Reader:
    def read(stopped: StoppedThread, _: int) -> str:
        try:
            return str(stopped.call(_KEYCTL, _KEYCTL_READ, keyring, 0, 0) // 4)
        except OSError:  # there is none
            return "0"

    return read


def _read_lists(stopped: StoppedThread, page: int, process: AskedProcess) -> Iterator[tuple[str, str]]:
    """Read the timers, and what the process does at signals: flags, mask and address of the handler."""
    timers = [_describe_timer(stopped, page, _GETITIMER, which) for which in range(len(INTERVAL_TIMERS))]
    for name, told in zip(INTERVAL_TIMERS, timers, strict=True):
        if told:
            yield f"{name} interval timer", told
    settings = {each: _describe_timer(stopped, page, _TIMER_GETTIME, each) for each in process.timers}
    yield "intervals of timers", ",".join(f"{each} {told}" for each, told in settings.items())
    yield "signal actions", ",".join(_describe_action(stopped, page, each) for each in process.signals)


def _describe_timer(stopped: StoppedThread, page: int, call: int, number: int) -> str:
    """Return the interval of a timer, and whether it runs; "" if it is not set."""
    stopped.call(call, number, page)
    interval_s, interval, value_s, value = struct.unpack("=4Q", stopped.read(page, 32))
    if not any((interval_s, interval, value_s, value)):
        return ""
    return f"{interval_s}.{interval:09} {'runs' if value_s or value else 'stands'}"


def _describe_action(stopped: StoppedThread, page: int, number: int) -> str:
    stopped.call(_SIGACTION, number, 0, page, 8)
    handler, flags, _, mask = struct.unpack("=4Q", stopped.read(page, 32))
    return f"{number} {handler:x} {flags:x} {mask:x}"


_THREAD_READERS: Mapping[str, _Reader] = {
    **{name: _result_of(option) for name, option in THREAD_RESULTS.items()},
    **{name: _value_of(*option) for name, option in THREAD_VALUES.items()},
    "L1D flush": _result_of(52, _L1D_FLUSH),
    "cpuid": lambda stopped, _: str(stopped.call(_ARCH_PRCTL, _GET_CPUID)),
    "memory policy": _read_memory_policy,
    "signal stack": _read_signal_stack,
    "robust list": _read_robust_list,
    "cleared at exit": _read_cleared,
    "restartable sequences": _read_rseq,
    **{name: _keys_of(number) for name, number in KEYRINGS.items()},
}
_PROCESS_READERS: Mapping[str, _Reader] = {
    **{name: _result_of(option) for name, option in PROCESS_RESULTS.items()},
    "dumpable": _read_dumpable,
    **{name: _value_of(*option) for name, option in PROCESS_VALUES.items()},
    "permitted CPU features": _read_cpu_features,
    "LDT": _read_ldt,
}
