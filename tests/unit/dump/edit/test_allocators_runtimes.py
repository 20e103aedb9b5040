"""Tests of each runtime and allocator in docs/mapped-memory.md.

They come from Debian, in a tree that the first run creates and keeps in the cache directory.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.reuse import PREFIX, PROGRAMS, Outcome, restore_and_reuse

from warmstart.cli.context import default_cache
from warmstart.dump.edit.memory import choose_all
from warmstart.node.cache import SUITE, bootstrap, ensure_directory, key_of

pytestmark = [pytest.mark.node, pytest.mark.slow]

PACKAGES = (
    "criu",
    "gcc",
    "golang-go",
    "iproute2",
    "libc6-dev",
    "libjemalloc2",
    "libmimalloc3",
    "libtcmalloc-minimal4",
    "musl-tools",
    "nodejs",
    "openjdk-21-jdk-headless",
    "openjdk-25-jdk-headless",
    "python3",
)
MIB = 1 << 20

JEMALLOC = ("env", "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2")
# Whatever is freed is given back at once.
JEMALLOC_EAGER = (*JEMALLOC, "MALLOC_CONF=dirty_decay_ms:0,muzzy_decay_ms:0")
MIMALLOC_EAGER = ("env", "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libmimalloc.so.3", "MIMALLOC_PURGE_DELAY=0")
TCMALLOC = ("env", "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")
HEAP = ("-XX:-UsePerfData", "-Xms32m", "-Xmx700m", "-XX:MinHeapFreeRatio=5", "-XX:MaxHeapFreeRatio=10")
UNLOCK = "-XX:+UnlockExperimentalVMOptions"
COLLECTORS = {
    "Serial": (),
    "Parallel": (),
    "G1": ("-XX:G1PeriodicGCInterval=300",),
    "Z": ("-XX:ZUncommitDelay=1", "-XX:ZCollectionInterval=1"),
    "Shenandoah": (UNLOCK, "-XX:ShenandoahUncommitDelay=100", "-XX:ShenandoahGuaranteedGCInterval=500"),
}


@pytest.fixture(scope="module")
def tree() -> Path:
    """Return a Debian tree with CRIU, the runtimes and the allocators."""
    cache = Path(os.environ.get("WARMSTART_CACHE") or default_cache())
    tree = cache / "test-trees" / key_of(PACKAGES, SUITE)
    ensure_directory(tree, cache, lambda new: bootstrap(new, SUITE, PACKAGES, print), print)
    return tree


@dataclass(frozen=True)
class Built:
    """A machine with the programs in /scratch."""

    machine: object

    def reuse(self, *argv: str, policy: str = "auto") -> Outcome:
        options = {"auto": {}, "all": {"make_policy": lambda _: choose_all}}[policy]
        return restore_and_reuse(self.machine, argv, **options)

    def compile_c(self, name: str, compiler: str = "gcc") -> str:
        flags = ("-O1", "-D_GNU_SOURCE", "-pthread")
        self.machine.run(compiler, *flags, "-o", f"/scratch/{name}", f"/scratch/{name}.c")
        return f"/scratch/{name}"

    def compile_java(self, version: int) -> str:
        home = f"/usr/lib/jvm/java-{version}-openjdk-amd64"
        self.machine.run(f"{home}/bin/javac", "-d", "/scratch", "/scratch/Reuse.java")
        return f"{home}/bin/java"

    def compile_go(self) -> str:
        build = "HOME=/tmp GOFLAGS=-buildvcs=false go build -o /scratch/reuse /scratch/reuse.go"
        self.machine.run("sh", "-c", build)
        return "/scratch/reuse"

    def node(self) -> tuple[str, ...]:
        return self.compile_c("without_io_uring"), "node", "--expose-gc", "/scratch/reuse.js", PREFIX


@pytest.fixture
def built(machine) -> Built:
    for program in filter(Path.is_file, PROGRAMS.iterdir()):
        shutil.copy(program, machine.scratch)
    return Built(machine)


def assert_fine(outcome: Outcome, moved_mib: int, given_back: bool = True) -> None:
    assert outcome.said == "fine"
    assert outcome.first.moved_bytes >= moved_mib * MIB
    touched, freed, _ = outcome.mapped
    if given_back:
        assert freed.resident < touched.resident - 10 * MIB


@pytest.mark.parametrize("policy", ["auto", "all"])
@pytest.mark.parametrize("version", [21, 25])
@pytest.mark.parametrize("collector", COLLECTORS)
def test_hotspot(built: Built, collector: str, version: int, policy: str) -> None:
    options = (*HEAP, f"-XX:+Use{collector}GC", *COLLECTORS[collector], "-cp", "/scratch")
    outcome = built.reuse(built.compile_java(version), *options, "Reuse", PREFIX, "150", policy=policy)
    # The heap of Z is shared memory, which is never mapped; Parallel gives nothing of it back.
    given_back = collector in ("Serial", "G1", "Shenandoah")
    assert_fine(outcome, 40 if collector == "Z" else 200, given_back)


def test_hotspot_beside_jemalloc(built: Built) -> None:
    """The heap is recognized by its address."""
    options = (*HEAP, "-XX:+UseSerialGC", "-cp", "/scratch")
    outcome = built.reuse(*JEMALLOC_EAGER, built.compile_java(21), *options, "Reuse", PREFIX, "150")
    assert_fine(outcome, 200)
    assert outcome.first.left_bytes["jemalloc relies on zeros"] > 10 * MIB


@pytest.mark.parametrize("policy", ["auto", "all"])
@pytest.mark.parametrize(
    ("environment", "moved_mib"),
    [((), 100), (("env", "PYTHONMALLOC=mimalloc"), 100), (("env", "PYTHONMALLOC=malloc"), 150)],
)
def test_cpython(built: Built, environment: tuple[str, ...], moved_mib: int, policy: str) -> None:
    outcome = built.reuse(*environment, "python3", "/scratch/reuse.py", PREFIX, policy=policy)
    assert_fine(outcome, moved_mib, given_back=False)


@pytest.mark.parametrize("compiler", ["gcc", "musl-gcc"])
@pytest.mark.parametrize("policy", ["auto", "all"])
def test_the_c_libraries(built: Built, compiler: str, policy: str) -> None:
    assert_fine(built.reuse(built.compile_c("reuse", compiler), PREFIX, policy=policy), 200)


@pytest.mark.parametrize("alignment", [16, 64, 4096, 1 << 21])
@pytest.mark.parametrize("compiler", ["gcc", "musl-gcc"])
def test_the_c_libraries_enlarge_blocks(built: Built, compiler: str, alignment: int) -> None:
    argv = (built.compile_c("grow", compiler), PREFIX, str(alignment))
    outcome = restore_and_reuse(built.machine, argv, steps=(("free", "fine"),))
    assert outcome.said == "fine"
    assert outcome.first.moved_bytes >= 3 * MIB


@pytest.mark.parametrize("policy", ["auto", "all"])
def test_mimalloc(built: Built, policy: str) -> None:
    assert_fine(built.reuse(*MIMALLOC_EAGER, built.compile_c("reuse"), PREFIX, policy=policy), 200)


@pytest.mark.parametrize("policy", ["auto", "all"])
def test_tcmalloc(built: Built, policy: str) -> None:
    assert_fine(built.reuse(*TCMALLOC, built.compile_c("reuse"), PREFIX, policy=policy), 300)


def test_jemalloc_is_left_alone(built: Built) -> None:
    outcome = built.reuse(*JEMALLOC_EAGER, built.compile_c("reuse"), PREFIX)
    assert outcome.said == "fine"
    assert outcome.first.left_bytes["jemalloc relies on zeros"] > 200 * MIB


def test_jemalloc_breaks_when_all_is_mapped(built: Built) -> None:
    outcome = built.reuse(*JEMALLOC_EAGER, built.compile_c("reuse"), PREFIX, policy="all")
    assert outcome.said == "WRONG calloc is not zeros"


def test_jemalloc_that_gives_nothing_back(built: Built) -> None:
    configured = (*JEMALLOC, "MALLOC_CONF=dirty_decay_ms:-1,muzzy_decay_ms:-1")
    outcome = built.reuse(*configured, built.compile_c("reuse"), PREFIX, policy="all")
    assert_fine(outcome, 200, given_back=False)


def test_node(built: Built) -> None:
    outcome = built.reuse(*built.node())
    assert_fine(outcome, 50)
    assert outcome.first.left_bytes["array buffers of V8 may rely on zeros"] > 8 * MIB


def test_node_breaks_when_all_is_mapped(built: Built) -> None:
    assert built.reuse(*built.node(), policy="all").said == "WRONG resizable buffer"


def test_go_that_relies_on_zeros(built: Built) -> None:
    outcome = built.reuse(built.compile_go(), PREFIX)
    assert outcome.said == "fine"
    assert outcome.first.moved_bytes < 2 * MIB


@pytest.mark.parametrize("policy", ["auto", "all"])
def test_go_that_is_told_not_to(built: Built, policy: str) -> None:
    outcome = built.reuse("env", "GODEBUG=madvdontneed=0", built.compile_go(), PREFIX, policy=policy)
    assert_fine(outcome, 100)
