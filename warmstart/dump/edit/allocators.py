"""Which memory may be mapped from a file: what is known of those who allocate it.

madvise(MADV_DONTNEED) on a private mapping of a file brings back the bytes of the file, where anonymous memory would
read as zeros. That is safe for an allocator that does not rely on zeros there, or that gives memory back in another
way. What each of them does was read in its source, and tried: see docs/mapped-memory.md.

A process is judged by all that it has mapped to execute, for only that can call madvise. A program that was linked
dynamically calls it through the C library, and so has its name among its symbols. Code that is loaded after the restore
need not be known: it gives back what it has taken itself, and that is anonymous.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from warmstart.dump.criu.contents import Mapping, Process, VmaStatus
from warmstart.dump.edit.memory import Choose
from warmstart.dump.edit.programs import Program, Programs

_GIB = 1 << 30

# The ends of paths of what calls madvise or mremap, but never relies on zeros in private anonymous memory then.
_SAFE_CALLERS = re.compile(
    r"""
    /(
    libc\.so\.6 | libc-2\.\d+\.so | ld-linux-[-\w]+\.so\.\d | ld-2\.\d+\.so  # glibc
    | ld-musl-\w+\.so\.1 | libc\.musl-[\w.]+ | libc\.so  # musl
    | libjvm\.so                                      # HotSpot
    | libnio\.so                                      # of the JDK: mapped files
    | python3[\d.]*t? | libpython3[\d.]*t?\.so[\d.]*   # CPython
    | libmimalloc[-\w]*\.so[\d.]*
    | libtcmalloc\w*\.so[\d.]*                        # of gperftools
    | libcrypto[-\w]*\.so[\d.]*                       # OpenSSL: MADV_DONTDUMP alone
    | cryptography/hazmat/bindings/_rust\.abi3\.so    # has OpenSSL in it
    | grpc/_cython/cygrpc\.[-\w]+\.so                 # has BoringSSL in it: MADV_WIPEONFORK alone
    | libpcre(2-\d+)?[-\w]*\.so[\d.]*                 # a stack, which it writes before it reads
    | (libsqlite3|libelf)[-\w.]*\.so[\d.]*            # mapped files
    | _multiarray_umath\.[-\w]+\.so                   # NumPy: MADV_HUGEPAGE alone
    )\Z
    """,
    re.VERBOSE,
)
_LINKERS = re.compile(r"ld-linux-.*|ld-musl-.*")

# The first version of Go that takes for zeros what it has given back. It is in 1.26 and not in 1.24; 1.25 was not seen.
_GO_RELIES = (1, 25)
_V8_RELIES = "array buffers of V8 may rely on zeros"


@dataclass(frozen=True)
class _Area:
    """Addresses that a runtime asks for, and the kernel does not give to others who do not ask: they get high ones.

    Attributes:
        runtime: the name of the file by which the runtime is known.
        end: the addresses below it.
        alignment: of all mappings in it that are the runtime's heap, in bytes.
    """

    runtime: re.Pattern[str]
    end: int
    alignment: int


_AREAS = (
    # The heap where references are compressed (`ReservedHeapSpace::initialize_compressed_heap`), and classes.
    _Area(re.compile(r"libjvm\.so"), 64 * _GIB, 4096),
    # The pages of the JavaScript heap (`OS::GetRandomMmapAddr`, `PageMetadata::kPageSize`). Array buffers lie
    # elsewhere; one that can be resized relies on zeros (`OS::SetPermissions`). So does the heap of C++ objects, whose
    # pages are not aligned so.
    _Area(re.compile(r"node|libnode\.so.*"), 1 << 46, 256 << 10),
)


@dataclass(frozen=True)
class _Verdict:
    """On a process.

    Attributes:
        reason: why its memory must be left alone; "" when it need not.
        areas: where it need not even then.
        is_heap_safe: nor where the C library extends the program's data, by brk(2).
    """

    reason: str
    areas: tuple[_Area, ...] = ()
    is_heap_safe: bool = True


def choose_none(_process: Process, _mapping: Mapping, _layout: Sequence[Mapping]) -> str:
    """The policy that leaves everything alone."""
    return "the recipe says so"


def choose_safe(programs: Programs) -> Choose:
    """Make the policy that moves only what is allocated by those who are known not to rely on zeros.

    Args:
        programs: what `read_programs` found before the dump.
    """
    verdicts: dict[int, _Verdict] = {}

    def choose(process: Process, mapping: Mapping, layout: Sequence[Mapping]) -> str:
        if process.pid not in verdicts:
            verdicts[process.pid] = _judge(layout, programs)
        verdict = verdicts[process.pid]
        if mapping.file in programs:  # what was written to it when it was loaded, which nobody gives back
            return ""
        if mapping.status & VmaStatus.HEAP and verdict.is_heap_safe:
            return ""
        if any(mapping.end <= area.end and mapping.start % area.alignment == 0 for area in verdict.areas):
            return ""
        return verdict.reason

    return choose


def _judge(layout: Sequence[Mapping], programs: Programs) -> _Verdict:
    executed = {mapping.file for mapping in layout if mapping.file and mapping.prot & mmap.PROT_EXEC}
    reasons = _find_reasons(sorted(executed), programs)
    if not reasons:
        return _Verdict("")
    names = [PurePosixPath(path).name for path in executed]
    areas = (area for area in _AREAS if any(area.runtime.fullmatch(name) for name in names))
    libraries = [mapping for mapping in layout if mapping.file in executed and not _is_main(mapping, programs)]
    # Where the kernel counts addresses upward from a third of all (`mmap_is_legacy`), libraries tell of it.
    reachable = tuple(area for area in areas if all(each.start >= area.end for each in libraries))
    return _Verdict(reasons[0], reachable, is_heap_safe=set(reasons) == {_V8_RELIES})


def _is_main(mapping: Mapping, programs: Programs) -> bool:
    """Whether it is of the executable: that may have a low address of its own."""
    return mapping.file in programs and bool(programs[mapping.file].interpreter)


def _find_reasons(executed: Sequence[str], programs: Programs) -> list[str]:
    """Why not all that the process executes is safe."""
    known = {path: programs[path] for path in executed if path in programs}
    reasons = [_find_go_reason(path, program) for path, program in known.items() if program.go]
    reasons += [_find_caller_reason(path) for path, program in known.items() if program.calls_madvise]
    reasons += [f"{path} was not there when its process was looked at" for path in executed if path not in programs]
    linkers = {program.interpreter for program in known.values()} - {""}
    if not linkers and not any(program.go for program in known.values()):
        reasons.append(f"{executed[0] if executed else 'it'} is linked statically, and its allocator not known")
    reasons += [f"its dynamic linker {linker} is not known" for linker in linkers if not _LINKERS.fullmatch(linker)]
    return [reason for reason in reasons if reason]


def _find_go_reason(path: str, program: Program) -> str:
    if program.go == (0, 0):
        return f"{path} is of an unknown version of Go"
    if program.go and program.go >= _GO_RELIES and not program.go_keeps_no_zeros:
        major, minor = program.go
        return f"Go {major}.{minor} relies on zeros without GODEBUG=madvdontneed=0"
    return ""


def _find_caller_reason(path: str) -> str:
    if _SAFE_CALLERS.search(path):
        return ""
    name = PurePosixPath(path).name
    if any(area.runtime.fullmatch(name) for area in _AREAS):
        return _V8_RELIES
    if "jemalloc" in name:
        return "jemalloc relies on zeros"
    return f"{path} calls madvise or mremap, and may rely on zeros"
