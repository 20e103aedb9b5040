"""Decide for each mapping whether it may be mapped from a file, by the allocators of its process.

madvise(MADV_DONTNEED) on a private file mapping brings back the bytes of the file; anonymous memory would read as
zeros. This is safe for an allocator that does not rely on zeros there, or that returns memory in another way. The
behavior of each allocator was read from its source and tested: see docs/mapped-memory.md.

A process is judged by all its executable mappings, since only their code can call madvise. A dynamically linked program
calls it through the C library, so the call is among its symbols. Code loaded after the restore need not be known: it
returns only memory that it allocated itself, and that is anonymous.
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

# Path suffixes of programs that call madvise or mremap, but never rely on zeros in private anonymous memory afterwards.
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
    | cryptography/hazmat/bindings/_rust\.abi3\.so    # contains OpenSSL
    | grpc/_cython/cygrpc\.[-\w]+\.so                 # contains BoringSSL: MADV_WIPEONFORK alone
    | libpcre(2-\d+)?[-\w]*\.so[\d.]*                 # a stack, written before it is read
    | (libsqlite3|libelf)[-\w.]*\.so[\d.]*            # mapped files
    | _multiarray_umath\.[-\w]+\.so                   # NumPy: MADV_HUGEPAGE alone
    )\Z
    """,
    re.VERBOSE,
)
_LINKERS = re.compile(r"ld-linux-.*|ld-musl-.*")

# The first version of Go that assumes returned memory to be zeros. 1.26 does and 1.24 does not; 1.25 was not checked.
_GO_RELIES = (1, 25)
_V8_RELIES = "array buffers of V8 may rely on zeros"


@dataclass(frozen=True)
class _Area:
    """Low addresses that a runtime requests for its heap. Mappings without a requested address get high ones.

    Attributes:
        runtime: file name that identifies the runtime.
        end: end of the area, exclusive.
        alignment: alignment of the runtime's heap mappings in the area, in bytes.
    """

    runtime: re.Pattern[str]
    end: int
    alignment: int


_AREAS = (
    # The heap with compressed references (`ReservedHeapSpace::initialize_compressed_heap`), and classes.
    _Area(re.compile(r"libjvm\.so"), 64 * _GIB, 4096),
    # The pages of the JavaScript heap (`OS::GetRandomMmapAddr`, `PageMetadata::kPageSize`). Array buffers lie
    # elsewhere; resizable ones rely on zeros (`OS::SetPermissions`). So does the heap of C++ objects, but its pages do
    # not have this alignment.
    _Area(re.compile(r"node|libnode\.so.*"), 1 << 46, 256 << 10),
)


@dataclass(frozen=True)
class _Verdict:
    """Verdict on a process.

    Attributes:
        reason: why its memory must be left alone; "" if all of it may be moved.
        areas: address areas that may be moved despite the reason.
        is_heap_safe: whether the heap, as extended by brk(2), may be moved despite the reason.
    """

    reason: str
    areas: tuple[_Area, ...] = ()
    is_heap_safe: bool = True


def choose_none(_process: Process, _mapping: Mapping, _layout: Sequence[Mapping]) -> str:
    """Leave every mapping alone."""
    return "the recipe says so"


def choose_safe(programs: Programs) -> Choose:
    """Make a policy that moves only memory of allocators known not to rely on zeros.

    Args:
        programs: result of `read_programs` before the dump.
    """
    verdicts: dict[int, _Verdict] = {}

    def choose(process: Process, mapping: Mapping, layout: Sequence[Mapping]) -> str:
        if process.pid not in verdicts:
            verdicts[process.pid] = _decide(layout, programs)
        verdict = verdicts[process.pid]
        if mapping.file in programs:  # written when the file was loaded, and never returned to the kernel
            return ""
        if mapping.status & VmaStatus.HEAP and verdict.is_heap_safe:
            return ""
        if any(mapping.end <= area.end and mapping.start % area.alignment == 0 for area in verdict.areas):
            return ""
        return verdict.reason

    return choose


def _decide(layout: Sequence[Mapping], programs: Programs) -> _Verdict:
    executed = {mapping.file for mapping in layout if mapping.file and mapping.prot & mmap.PROT_EXEC}
    reasons = _find_reasons(sorted(executed), programs)
    if not reasons:
        return _Verdict("")
    names = [PurePosixPath(path).name for path in executed]
    areas = (area for area in _AREAS if any(area.runtime.fullmatch(name) for name in names))
    libraries = [mapping for mapping in layout if mapping.file in executed and not _is_main(mapping, programs)]
    # With the legacy layout (`mmap_is_legacy`) addresses grow upward from a third of the space; libraries reveal it.
    reachable = tuple(area for area in areas if all(each.start >= area.end for each in libraries))
    return _Verdict(reasons[0], reachable, is_heap_safe=set(reasons) == {_V8_RELIES})


def _is_main(mapping: Mapping, programs: Programs) -> bool:
    """Whether the mapping is of the executable. An executable may have a low address."""
    return mapping.file in programs and bool(programs[mapping.file].interpreter)


def _find_reasons(executed: Sequence[str], programs: Programs) -> list[str]:
    """List the reasons why the process's code may be unsafe."""
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
