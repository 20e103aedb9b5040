"""The memory that may be mapped, by the process's executables and the location of the memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmstart.dump.criu.contents import Mapping, Process, VmaStatus
from warmstart.dump.edit.allocators import choose_none, choose_safe
from warmstart.dump.edit.programs import Program

LIBC, LINKER = "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
JVM, JEMALLOC, NODE = "/opt/jdk/lib/server/libjvm.so", "/usr/lib/libjemalloc.so.2", "/usr/local/bin/node"
CALLS = Program(calls_madvise=True)
DYNAMIC = Program(interpreter="ld-linux-x86-64.so.2")
GLIBC = {LIBC: Program(interpreter="ld-linux-x86-64.so.2", calls_madvise=True), LINKER: CALLS}

LIBRARIES = 0x7F00_0000_0000
HEAP = Mapping(
    LIBRARIES - (64 << 20), LIBRARIES - (32 << 20), 3, 0x22, VmaStatus.REGULAR | VmaStatus.ANON_PRIVATE, "", 0, 0
)

HEAP_BY_BRK = replace(HEAP, status=HEAP.status | VmaStatus.HEAP)


def process(pid: int = 1) -> Process:
    return Process(pid, 0, "made", (), 1, 0)


def anonymous(start: int, size: int = 1 << 20) -> Mapping:
    return Mapping(start, start + size, 3, 0x22, VmaStatus.REGULAR | VmaStatus.ANON_PRIVATE, "", 0, 0)


def lay_out(*paths: str, at: int = LIBRARIES) -> list[Mapping]:
    """Return the mappings of a heap and of executable files, each followed by a writable mapping."""
    status = VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE
    return [HEAP] + [
        Mapping(at + n * 8192 + part * 4096, at + n * 8192 + (part + 1) * 4096, 3 if part else 5, 2, status, path, 0, 0)
        for n, path in enumerate(paths)
        for part in (0, 1)
    ]


def judge(programs: dict[str, Program], mapping: Mapping = HEAP, at: int = LIBRARIES) -> str:
    layout = lay_out(*programs, at=at)
    return choose_safe(programs)(process(), mapping, [*layout, mapping])


@pytest.mark.parametrize(
    "programs",
    [
        {"/usr/sbin/nginx": DYNAMIC, "/usr/lib/libz.so.1": Program(), **GLIBC},
        {"/usr/bin/java": DYNAMIC, JVM: CALLS, "/opt/jdk/lib/libnio.so": CALLS, **GLIBC},
        {"/usr/bin/python3.13": Program("ld-linux-x86-64.so.2", calls_madvise=True), **GLIBC},
        {"/usr/local/bin/python3.13": DYNAMIC, "/usr/local/lib/libpython3.13.so.1.0": CALLS, **GLIBC},
        {"/bin/busybox": Program("ld-musl-x86_64.so.1"), "/lib/ld-musl-x86_64.so.1": CALLS},
        {"/app": DYNAMIC, "/usr/lib/libtcmalloc_minimal.so.4.5.16": CALLS, **GLIBC},
        {"/app": DYNAMIC, "/usr/lib/libmimalloc.so.2.1": CALLS, **GLIBC},
        {
            "/usr/bin/python3.13": Program("ld-linux-x86-64.so.2", calls_madvise=True),
            "/app/numpy/_core/_multiarray_umath.cpython-313-x86_64-linux-gnu.so": CALLS,
            "/app/psycopg2_binary.libs/libcrypto-fb8d5b21.so.3": CALLS,
            "/app/cryptography/hazmat/bindings/_rust.abi3.so": CALLS,
            **GLIBC,
        },
        {"/app": Program(go=(1, 24))},
        {"/app": Program(go=(1, 26), go_keeps_no_zeros=True)},
        {"/app": Program("ld-linux-x86-64.so.2", go=(1, 24)), **GLIBC},
    ],
)
def test_what_is_known_to_be_safe(programs: dict[str, Program]) -> None:
    assert judge(programs) == ""


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({"/app": DYNAMIC, JEMALLOC: CALLS, **GLIBC}, "jemalloc relies on zeros"),
        (
            {"/usr/bin/redis-server": Program("ld-linux-x86-64.so.2", calls_madvise=True), **GLIBC},
            "/usr/bin/redis-server calls madvise or mremap, and may rely on zeros",
        ),
        (
            {"/usr/bin/java": DYNAMIC, JVM: CALLS, "/app/libnative.so": CALLS, **GLIBC},
            "/app/libnative.so calls madvise or mremap, and may rely on zeros",
        ),
        (
            {"/usr/bin/python3.13": DYNAMIC, "/app/x/_rust.abi3.so": CALLS, **GLIBC},
            "/app/x/_rust.abi3.so calls madvise",
        ),
        (
            {"/usr/bin/python3.13": DYNAMIC, "/app/libarrow.so.2600": CALLS, **GLIBC},
            "/app/libarrow.so.2600 calls madvise",
        ),
        ({"/app": DYNAMIC, "/app/xlibcrypto.so.3": CALLS, **GLIBC}, "/app/xlibcrypto.so.3 calls madvise"),
        ({"/app": Program()}, "/app is linked statically, and its allocator not known"),
        ({"/app": Program(go=(0, 0))}, "/app is of an unknown version of Go"),
        ({"/app": Program(go=(1, 26))}, "Go 1.26 relies on zeros without GODEBUG=madvdontneed=0"),
        ({"/app": Program(go=(1, 25))}, "Go 1.25 relies on zeros without GODEBUG=madvdontneed=0"),
        ({"/app": Program(go=(1, 24)), "/usr/lib/plugin.so": CALLS}, "/usr/lib/plugin.so calls madvise or mremap"),
        ({"/system/bin/app": Program("linker64")}, "its dynamic linker linker64 is not known"),
        ({NODE: Program("ld-linux-x86-64.so.2", calls_madvise=True), **GLIBC}, "array buffers of V8 may rely on zeros"),
    ],
)
def test_what_is_left_alone(programs: dict[str, Program], reason: str) -> None:
    assert judge(programs).startswith(reason)


def test_what_was_not_looked_at_is_left_alone() -> None:
    choose = choose_safe({"/app": DYNAMIC, **GLIBC})
    layout = lay_out("/app", "/usr/lib/later.so", *GLIBC)
    assert choose(process(), HEAP, layout) == "/usr/lib/later.so was not there when its process was looked at"
    assert choose_safe({})(process(), HEAP, [HEAP]) == "it is linked statically, and its allocator not known"


def test_files_that_are_not_executed_do_not_matter() -> None:
    programs = {"/app": DYNAMIC, **GLIBC}
    data = Mapping(1 << 40, (1 << 40) + 4096, 3, 2, VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE, "/data", 0, 0)
    assert choose_safe(programs)(process(), data, [data, *lay_out(*programs)]) == ""


def test_each_process_is_judged_by_itself() -> None:
    choose = choose_safe({"/app": DYNAMIC, JEMALLOC: CALLS, **GLIBC})
    assert choose(process(1), HEAP, lay_out("/app", JEMALLOC, *GLIBC)) == "jemalloc relies on zeros"
    assert choose(process(2), HEAP, lay_out("/app", *GLIBC)) == ""


def test_what_the_loader_wrote_to_a_program_is_mapped_all_the_same() -> None:
    programs = {"/app": DYNAMIC, JEMALLOC: CALLS, **GLIBC}
    layout = lay_out(*programs)
    choose = choose_safe(programs)
    assert [choose(process(), mapping, layout) for mapping in layout[1:]] == [""] * (len(layout) - 1)


def test_a_java_heap_beside_another_allocator() -> None:
    programs = {"/usr/bin/java": DYNAMIC, JVM: CALLS, JEMALLOC: CALLS, **GLIBC}
    assert judge(programs, anonymous(0xE000_0000)) == ""
    assert judge(programs, anonymous((64 << 30) - 4096)) == "jemalloc relies on zeros"
    assert judge(programs) == "jemalloc relies on zeros"
    del programs[JVM]
    assert judge(programs, anonymous(0xE000_0000)) == "jemalloc relies on zeros"


def test_the_heap_of_v8_and_its_array_buffers() -> None:
    programs = {NODE: Program("ld-linux-x86-64.so.2", calls_madvise=True), **GLIBC}
    reason = "array buffers of V8 may rely on zeros"
    assert judge(programs, anonymous(0x1BF2_E394_0000)) == ""
    assert judge(programs, anonymous(0x1BF2_E394_1000)) == reason  # C++ objects
    assert judge(programs, anonymous(0x7F16_8560_0000)) == reason
    assert judge(programs, HEAP_BY_BRK) == ""
    assert judge({JEMALLOC: CALLS, **programs}, HEAP_BY_BRK) != ""
    # Where the kernel gives away low addresses, an array buffer may be among them.
    assert judge(programs, anonymous(0x1BF2_E394_0000), at=0x2AAA_AAC0_0000) == reason


def test_none() -> None:
    assert choose_none(process(), HEAP, [HEAP]) == "the recipe says so"
