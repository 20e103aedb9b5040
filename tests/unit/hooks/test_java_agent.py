"""The agent's protocol and org.crac's callbacks, in JVMs whose restore the test plays."""

from __future__ import annotations

import subprocess
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.hooks import await_closed
from support.java_agent import TOP, HooksDirectory, Jvm, find_jvms, freeze, run_java

pytestmark = pytest.mark.linux
PROVIDER = TOP / "hooks/java/src/warmstart/crac"
JVMS = find_jvms()
each_jvm = pytest.mark.parametrize("java", JVMS.values(), ids=JVMS.keys())


def read_until(jvm: Jvm, last: str) -> list[str]:
    lines = []
    while not lines or lines[-1] != last:
        lines.append(jvm.line())
        assert lines[-1] or jvm.process.poll() is None, lines
    return lines


def test_jar(agent: Path) -> None:
    assert agent.stat().st_size <= 64 << 10
    with zipfile.ZipFile(agent) as jar:
        assert "Redistributions in binary form must reproduce" in jar.read("META-INF/licenses/org.crac.txt").decode()
        entry = jar.read("warmstart/hooks/Agent.class")
    assert int.from_bytes(entry[6:8]) == 52, "Java 8 cannot load the entry"


def test_code_that_applications_run_often_is_left_to_them(agent: Path) -> None:
    """HotSpot takes back code that it compiled for an application, if others use it in another way."""
    with zipfile.ZipFile(agent) as jar:
        classes = {name: jar.read(name) for name in jar.namelist() if name.startswith("warmstart/")}
    assert len(classes) > 30
    # The first one is String.format.
    formats = (b"(Ljava/lang/String;[Ljava/lang/Object;)Ljava/lang/String;", b"java/util/Formatter")
    common = (*formats, b"java/util/regex/", b"java/nio/channels/")
    assert [(name, word) for name, code in classes.items() for word in common if word in code] == []


@each_jvm
def test_life_cycle(java: str, agent: Path, programs: Path, java_hooks: HooksDirectory) -> None:
    with run_java(["-cp", programs, "Callbacks"], agent, java_hooks.path, java=java) as jvm:
        registered = java_hooks.message("registered")
        assert registered["pid"] == jvm.pid
        assert registered["runtime"].startswith("java ")
        assert read_until(jvm, "running") == ["running"]
        java_hooks.request_checkpoint()
        assert 0 <= java_hooks.message("checkpoint")["seconds"] < 60
        assert read_until(jvm, "before a") == ["before b", "before n1", "before n2", "before a"]
        await_closed(jvm.pid, java_hooks.path)
        java_hooks.restore(jvm.pid)
        assert 0 <= java_hooks.message("restored")["seconds"] < 60
        assert read_until(jvm, "after b") == ["after a", "after n1", "after n2", "after b"]
        assert jvm.rest() == ["threads 0"]
    assert java_hooks.silent()


def test_callbacks_of_the_application_are_left_out(agent: Path, programs: Path, java_hooks: HooksDirectory) -> None:
    none = {"WARMSTART_HOOKS_CALLBACKS": "none"}
    with run_java(["-cp", programs, "Callbacks"], agent, java_hooks.path, none) as jvm:
        java_hooks.message("registered")
        read_until(jvm, "running")
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        java_hooks.restore(jvm.pid)
        java_hooks.message("restored")
        assert jvm.rest() == ["threads 0"]


@each_jvm
def test_application_with_its_own_org_crac(java: str, agent: Path, programs: Path, java_hooks: HooksDirectory) -> None:
    with run_java(["-cp", programs, "WebApplication", agent, programs], agent, java_hooks.path, java=java) as jvm:
        java_hooks.message("registered")
        assert read_until(jvm, "running") == ["own true", "running"]
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        assert read_until(jvm, "before a") == ["before b", "before n1", "before n2", "before a"]


def test_nothing_of_the_agent_runs_for_the_first_time_after_a_restore(
    agent: Path, programs: Path, java_hooks: HooksDirectory, tmp_path: Path
) -> None:
    loaded = tmp_path / "loaded"
    log = f"-Xlog:class+load=info:file={loaded}:none"
    with run_java([log, "-cp", programs, "Callbacks"], agent, java_hooks.path) as jvm:
        java_hooks.message("registered")
        read_until(jvm, "running")
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        before = len(loaded.read_text().splitlines())
        java_hooks.restore(jvm.pid)
        java_hooks.message("restored")
        after = [line.split()[0] for line in loaded.read_text().splitlines()[before:]]
    assert not [name for name in after if name.startswith("warmstart.")]
    assert len(after) < 20, after


@pytest.mark.parametrize("keep", ["", "web-servers"])
def test_web_servers_of_spring(keep: str, agent: Path, programs: Path, java_hooks: HooksDirectory) -> None:
    server, other = "WebServerStartStopLifecycle", "WebServerGracefulShutdownLifecycle"
    with run_java(["-cp", programs, "SpringServer"], agent, java_hooks.path, {"WARMSTART_HOOKS_KEEP": keep}) as jvm:
        java_hooks.message("registered")
        assert read_until(jvm, "running") == ["running"]
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        java_hooks.restore(jvm.pid)
        java_hooks.message("restored")
        *said, listener, served, graceful, _ = jvm.rest()
    stopped = [] if keep else [server, other]
    # The server is stopped and started once before: it is to be fast the second time.
    rehearsed = [] if keep else [f"stop {server}", f"start {server}"]
    assert said == [
        *rehearsed,
        *(f"stop {name}" for name in ("Listener", *stopped)),
        *(f"start {name}" for name in ("Listener", *stopped)),
    ]
    assert (listener, served, graceful) == ("Listener true", f"{server} true", f"{other} true")


@pytest.mark.parametrize("hooks", [True, False])
def test_pools_and_event_loops_of_libraries(
    hooks: bool, agent: Path, programs: Path, java_hooks: HooksDirectory
) -> None:
    with run_java(["-cp", programs, "Libraries"], agent if hooks else None, java_hooks.path) as jvm:
        assert read_until(jvm, "running") == ["running"]
        if hooks:
            java_hooks.message("registered")
            java_hooks.request_checkpoint()
            java_hooks.message("checkpoint")
        ask(jvm, "")
        connections, runs, ticks, purges = ask(jvm, "").split(", ")
        assert connections == ("0 connections" if hooks else "2 connections")
        # Two in each of two rehearsals, and before the checkpoint.
        assert purges == ("6 purges" if hooks else "0 purges")
        if hooks:
            assert (runs, ticks) == ("0 runs", "0 ticks"), "nothing is due at the moment of the restore"
            continued = java_hooks.restore(jvm.pid, AWAY_S)
            java_hooks.message("restored")
        else:
            continued = freeze(jvm.pid, AWAY_S)
        time.sleep(0.2)
        _, runs, ticks, _ = (int(count.split()[0]) for count in ask(jvm, "").split(", "))
        # Less than a turn of the timer's wheel is not skipped.
        for count, left in ((runs, 0), (ticks, 8)):
            assert 1 <= count <= most_runs_since(continued) + left if hooks else count > 150


def test_given_up_and_tried_again(agent: Path, programs: Path, java_hooks: HooksDirectory) -> None:
    with run_java(["-cp", programs, "Callbacks", "a.after=throw"], agent, java_hooks.path) as jvm:
        java_hooks.message("registered")
        read_until(jvm, "running")
        for _ in range(2):
            java_hooks.request_checkpoint()
            java_hooks.message("checkpoint")
            java_hooks.give_up()
            assert java_hooks.message("failed")["phase"] == "afterRestore"
            read_until(jvm, "after b")
        assert jvm.rest() == ["threads 1"]


def test_refusal(agent: Path, programs: Path, java_hooks: HooksDirectory) -> None:
    refusing = ["n1.before=throw", "b.before=throw", "ask"]
    with run_java(["-cp", programs, "Callbacks", *refusing], agent, java_hooks.path) as jvm:
        java_hooks.message("registered")
        java_hooks.message("ready")
        java_hooks.request_checkpoint()
        failed = java_hooks.message("failed")
        assert failed["phase"] == "beforeCheckpoint"
        assert failed["error"] == (
            'java.lang.IllegalStateException: b is "busy"ä\n (in Callbacks$Printing.beforeCheckpoint); '
            'java.lang.IllegalStateException: n1 is "busy"ä\n (in Callbacks$Printing.beforeCheckpoint)'
        )
        # All are notified, and told at once that the checkpoint is over.
        java_hooks.message("restored")
        assert read_until(jvm, "running") == [
            "asking",
            *["before b", "before n1", "before n2", "before a"],
            *["after a", "after n1", "after n2", "after b"],
            "org.crac.CheckpointException",
            *["suppressed java.lang.IllegalStateException"] * 2,
            "running",
        ]


def test_application_asks(agent: Path, programs: Path, java_hooks: HooksDirectory) -> None:
    with run_java(["-cp", programs, "Callbacks", "ask"], agent, java_hooks.path) as jvm:
        java_hooks.message("registered")
        java_hooks.message("ready")
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        assert read_until(jvm, "before a")[-1] == "before a"
        java_hooks.restore(jvm.pid)
        java_hooks.message("restored")
        assert read_until(jvm, "running")[-2:] == ["returned", "running"]


@pytest.mark.parametrize(
    ("misbehaving", "error"),
    [
        ("b.after=throw", "IllegalStateException: b is"),
        ("b.after=hang", "afterRestore is not done after 2.0 s: at java.lang.Thread.sleep"),
    ],
)
def test_failure_after_restore_ends_the_process(
    misbehaving: str, error: str, agent: Path, programs: Path, java_hooks: HooksDirectory
) -> None:
    limit = {"WARMSTART_HOOKS_LIMIT": "2" if "hang" in misbehaving else "30"}
    with run_java(["-cp", programs, "Callbacks", misbehaving], agent, java_hooks.path, limit) as jvm:
        java_hooks.message("registered")
        read_until(jvm, "running")
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        java_hooks.restore(jvm.pid)
        failed = java_hooks.message("failed")
        assert failed["phase"] == "afterRestore"
        assert error in failed["error"]
        [line] = [line for line in jvm.rest() if line.startswith("warmstart")]
        assert line.startswith("warmstart: after-restore hook failed: ")
        assert error in line
        assert jvm.process.returncode == 70


def test_callback_that_hangs_before(agent: Path, programs: Path, java_hooks: HooksDirectory) -> None:
    arguments = ["-cp", programs, "Callbacks", "n2.before=hang"]
    with run_java(arguments, agent, java_hooks.path, {"WARMSTART_HOOKS_LIMIT": "2"}) as jvm:
        java_hooks.message("registered")
        read_until(jvm, "running")
        java_hooks.request_checkpoint()
        failed = java_hooks.message("failed")
        assert failed["phase"] == "beforeCheckpoint"
        assert "called by Callbacks$Nested.beforeCheckpoint" in failed["error"]
        assert jvm.process.poll() is None


@each_jvm
def test_cold_start_without_an_agent(java: str, agent: Path, programs: Path) -> None:
    options = [f"-Xbootclasspath/a:{agent}", "-Dorg.crac.Core.Compat=warmstart.crac"]
    with run_java([*options, "-cp", programs, "Callbacks", "ask"], None, None, java=java) as jvm:
        assert jvm.rest() == ["asking", "returned", "running", "threads 0"]


def test_jdk_with_crac_of_its_own(agent: Path, programs: Path, java_hooks: HooksDirectory, tmp_path: Path) -> None:
    """The JDK's provider serves the application, and the agent notifies it."""
    for source in PROVIDER.glob("*.java"):
        text = source.read_text().replace("package warmstart.crac", "package jdk.crac")
        (tmp_path / source.name).write_text(text.replace("jdkCore() != null", "false"))
    patched = tmp_path / "patched"
    module = ["-source", "11", "-target", "11", "--patch-module", f"java.base={tmp_path}", "-d", patched]
    subprocess.run(["javac", "-Xlint:-options", *module, *tmp_path.glob("*.java")], check=True)
    options = ["--patch-module", f"java.base={patched}", "--add-exports=java.base/jdk.crac=ALL-UNNAMED"]
    with run_java([*options, "-cp", programs, "Callbacks"], agent, java_hooks.path) as jvm:
        java_hooks.message("registered")
        assert read_until(jvm, "running") == ["running"]
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        assert read_until(jvm, "before a") == ["before b", "before n1", "before n2", "before a"]
        java_hooks.restore(jvm.pid)
        java_hooks.message("restored")
        assert read_until(jvm, "after b") == ["after a", "after n1", "after n2", "after b"]


@pytest.mark.parametrize("directory", [True, False])
def test_cold_start(directory: bool, agent: Path, programs: Path, tmp_path: Path) -> None:
    with run_java(["-cp", programs, "Callbacks", "ask"], agent, tmp_path if directory else None) as jvm:
        assert jvm.rest() == ["asking", "returned", "running", "threads 0"]
    assert not list(tmp_path.iterdir())


OPENED = [
    f"--add-opens=java.base/{name}=ALL-UNNAMED"
    for name in ("java.lang", "java.net", "java.security", "java.util", "java.util.concurrent", "sun.security.provider")
]
AWAY_S = 2.0
# Each state that must differ after a restore, and differ between two pods.
STALE = {
    "Random",
    "Random.nextGaussian",
    "Math.random",
    "SplittableRandom",
    "SHA1PRNG",
    "DRBG",
    "new SHA1PRNG",
    "ThreadLocalRandom",
    "new Random",
    "new SplittableRandom",
    "new ThreadLocalRandom",
    "InetAddress",
    "InetAddress.getLocalHost",
}


def most_runs_since(continued: float) -> float:
    """Return how often a task of each 10 ms runs from this time to now, if it does not catch up on the time before."""
    return (time.monotonic() - continued) / 0.01 + 2


def ask(jvm: Jvm, question: str) -> str:
    jvm.tell(question)
    return jvm.line()


def compare(jvm: Jvm) -> tuple[set[str], set[str]]:
    """Return which state is the same as before, and which is other."""
    jvm.tell("compare")
    lines = [line.split(" ", 1) for line in read_until(jvm, "compared")[:-1]]
    same, other = ({name for kind, name in lines if kind == wanted} for wanted in ("same", "other"))
    return same, other


def test_without_hooks_state_is_that_of_the_build(agent: Path, programs: Path, tmp_path: Path) -> None:
    with run_java([*OPENED, "-cp", programs, "OwnState"], agent, tmp_path) as jvm:
        assert jvm.line() == "running"
        assert ask(jvm, "remember") == "remembered"
        ask(jvm, "ticks")
        freeze(jvm.pid, AWAY_S)
        rate, _, wrapped, timer, _ = map(int, ask(jvm, "ticks").split())
        assert min(rate, wrapped, timer) > 150, "tasks catch up"
        same, _ = compare(jvm)
        assert same == {*STALE, "Random(42)", "UUID"}


@each_jvm
@pytest.mark.parametrize("callbacks", ["all", "none"])
def test_own_hooks(callbacks: str, java: str, agent: Path, programs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "hooks"
    directory.mkdir()
    java_hooks = HooksDirectory(directory)
    variables = {"OLD": "build", "KEPT": "build", "GONE": "build", "WARMSTART_HOOKS_LATE": "OLD,NEW,GONE,TZ"}
    variables["WARMSTART_HOOKS_CALLBACKS"] = callbacks
    with run_java([*OPENED, "-cp", programs, "OwnState"], agent, directory, variables, java) as jvm:
        assert jvm.line() == "running"
        java_hooks.message("registered")
        assert ask(jvm, "remember") == "remembered"
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        ask(jvm, "ticks")
        assert ask(jvm, "ticks") == "0 0 0 0 0", "nothing is due at the moment of the restore"
        (tmp_path / "env").write_bytes(b"OLD=pod\0KEPT=pod\0NEW=a=b\0TZ=Asia/Tokyo\0")
        continued = java_hooks.restore(jvm.pid, AWAY_S)
        java_hooks.message("restored")
        rate, delay, wrapped, timer, once = map(int, ask(jvm, "ticks").split())
        assert 1 < max(rate, wrapped, timer) <= most_runs_since(continued), "tasks do not catch up"
        assert delay > 1
        assert once == 0
        same, other = compare(jvm)
        assert same == {"Random(42)"}
        assert other == {*STALE, "UUID"}
        assert ask(jvm, "OLD") == "OLD=pod pod"
        assert ask(jvm, "NEW") == "NEW=a=b a=b"
        assert ask(jvm, "KEPT") == "KEPT=build build"
        assert ask(jvm, "GONE") == "GONE=null null"
        assert ask(jvm, "zone") == "Asia/Tokyo"
    java_hooks.close()


@each_jvm
def test_tasks_that_run_at_the_checkpoint(java: str, agent: Path, programs: Path, java_hooks: HooksDirectory) -> None:
    with run_java(["-cp", programs, "Schedules"], agent, java_hooks.path, java=java) as jvm:
        assert jvm.line() == "0 late"
        runs, milliseconds = map(int, jvm.line().split(" in "))
        assert 1 < runs <= milliseconds + 2, "a task does not catch up"


@pytest.mark.parametrize("content", [None, b""], ids=["absent", "empty"])
def test_restore_without_an_environment(content: bytes | None, agent: Path, programs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "hooks"
    directory.mkdir()
    java_hooks = HooksDirectory(directory)
    if content is not None:
        (tmp_path / "env").write_bytes(content)
    variables = {"OLD": "build", "WARMSTART_HOOKS_LATE": "OLD"}
    with run_java([*OPENED, "-cp", programs, "OwnState"], agent, directory, variables) as jvm:
        assert jvm.line() == "running"
        java_hooks.message("registered")
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        java_hooks.restore(jvm.pid)
        java_hooks.message("restored")
        assert ask(jvm, "OLD") == "OLD=build build"
    java_hooks.close()


@each_jvm
def test_flags_of_the_pod(java: str, agent: Path, programs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "hooks"
    directory.mkdir()
    java_hooks = HooksDirectory(directory)
    options = [*OPENED, "-XX:+UseG1GC", "-cp", programs]
    late = {"WARMSTART_HOOKS_LATE": "JAVA_TOOL_OPTIONS"}
    with run_java([*options, "OwnState"], agent, directory, late, java) as jvm:
        assert jvm.line() == "running"
        java_hooks.message("registered")
        java_hooks.request_checkpoint()
        java_hooks.message("checkpoint")
        (tmp_path / "env").write_bytes(b"JAVA_TOOL_OPTIONS=-XX:MinHeapFreeRatio=7 -XX:MaxHeapSize=1g\0")
        java_hooks.restore(jvm.pid)
        java_hooks.message("restored")
        assert ask(jvm, "flag") == "7"
    java_hooks.close()


MIB = 1 << 20
V1, V2 = "memory/memory.limit_in_bytes", "memory.max"
NO_LIMIT_V1 = 0x7FFFFFFFFFFFF000
SOFT = [(version, flag) for version in JVMS if int(version) >= 17 for flag in ("UseZGC", "UseShenandoahGC")]


@pytest.mark.parametrize(("version", "flag"), SOFT, ids=str)
def test_soft_limit_of_the_heap_follows_the_pods_memory(
    version: str, flag: str, agent: Path, programs: Path, tmp_path: Path
) -> None:
    arguments = [tmp_path, V2, str(512 * MIB), str(256 * MIB), str(4096 << 10)]
    assert restore_beside(arguments, programs, agent, [f"-XX:+{flag}"], JVMS[version]) == ["100 of 200"]


@pytest.mark.parametrize(
    ("file", "build", "pod", "machine_mib", "expected"),
    [
        (V1, 512 * MIB, 256 * MIB, 4096, "100 of 200"),
        (V2, "max", 512 * MIB, 1024, "100 of 200"),
        (V1, NO_LIMIT_V1, 512 * MIB, 1024, "100 of 200"),
        (V2, 512 * MIB, 1024 * MIB, 4096, "200 of 200"),
        (V2, 512 * MIB, "max", 4096, "200 of 200"),
    ],
    ids=["v1", "build without a limit", "the same, v1", "more", "pod without a limit"],
)
def test_soft_limit_of_the_heap_is_a_share_of_the_builds(
    file: str, build: object, pod: object, machine_mib: int, expected: str, agent: Path, programs: Path, tmp_path: Path
) -> None:
    arguments = [tmp_path, file, str(build), str(pod), str(machine_mib << 10)]
    assert restore_beside(arguments, programs, agent, ["-XX:+UseZGC"], "java") == [expected]


def restore_beside(
    arguments: Sequence[str | Path], programs: Path, agent: Path, options: Sequence[str], java: str
) -> list[str]:
    """Run PodMemory, whose package is the agent's."""
    path = f"{agent}:{programs}"
    command = [*options, "-Xmx200m", "-cp", path, "warmstart.hooks.PodMemory", *arguments]
    with run_java(command, None, None, java=java) as jvm:
        return jvm.rest()
