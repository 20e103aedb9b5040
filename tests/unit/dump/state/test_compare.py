"""What a restore loses is named; what the application does by itself is not."""

from __future__ import annotations

import pytest

from warmstart.dump.state.compare import describe, find_certain, find_differences, keep_confirmed
from warmstart.dump.state.model import KernelState
from warmstart.dump.state.rules import CERTAIN_BY_RUNTIME

SETS = ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")
THREAD = {
    "name": "service",
    "Seccomp": "2",
    "Seccomp_filters": "2",
    "NoNewPrivs": "1",
    "Uid": "1000 1000 1000 1000",
    "Gid": "1000 1000 1000 1000",
    "Groups": "1000 2000",
    "Cpus_allowed_list": "0",
    "SigBlk": "0000000000000000",
    **dict.fromkeys(SETS, "0000000000000005"),
}
TIMER = {"is": "anon_inode:[timerfd]", "flags": "read-write", "ticking": "yes", "interval": "0.005000000"}


def state(**subjects: dict[str, str]) -> KernelState:
    return KernelState({name.replace("_", " "): facts for name, facts in subjects.items()})


def lost(before: KernelState, after: KernelState, exact: bool = False) -> tuple[str, ...]:
    return describe(find_differences(before, after, exact=exact))


def changed(exact: bool = False, **changes: str) -> tuple[str, ...]:
    return lost(state(thread_100=THREAD), state(thread_100={**THREAD, **changes}), exact)


def test_what_is_the_same_or_stricter_is_not_lost():
    assert changed() == ()
    assert changed(Seccomp_filters="3", **dict.fromkeys(SETS, "0")) == ()
    assert lost(state(thread_100=THREAD), state(thread_101={**THREAD, "Seccomp": "0"})) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Seccomp": "0"}, "seccomp mode 0, was 2"),
        ({"Seccomp_filters": "1"}, "number of seccomp filters 1, was 2"),
        ({"NoNewPrivs": "0"}, "no_new_privs 0, was 1"),
        ({"Uid": "0 0 0 0"}, "user ids 0 0 0 0, was 1000"),
        ({"Gid": "0 0 0 0"}, "group ids 0 0 0 0, was 1000"),
        ({"Groups": "1000 3000"}, "supplementary groups 1000 3000, was 1000 2000"),
        ({"CapEff": "0000000000000007"}, "effective capabilities 0000000000000007, was 0000000000000005"),
        ({"CapAmb": "0000000000000007"}, "ambient capabilities"),
        ({"Cpus_allowed_list": "0-1"}, "CPU affinity 0-1, was 0"),
        ({"SigBlk": "0000000000000001"}, "blocked signals"),
    ],
)
def test_each_loss_of_a_thread_is_named(changes, said):
    (line,) = changed(**changes)
    assert line.startswith(f"service (100): {said}")


def test_fewer_capabilities_are_a_loss_only_to_a_restorer_with_all_privileges():
    assert changed(CapEff="0") == ()
    assert len(changed(exact=True, CapEff="0")) == 1


def test_a_wider_bounding_set_matters_only_without_no_new_privs():
    assert changed(CapBnd="7") == ()
    assert "capability bounding set" in changed(CapBnd="7", NoNewPrivs="0")[0]


def test_what_the_kernel_does_not_show_is_not_lost():
    without = {name: value for name, value in THREAD.items() if name != "Seccomp_filters"}
    assert lost(state(thread_100=THREAD), state(thread_100=without)) == ()


@pytest.mark.parametrize(
    ("facts", "changes", "said"),
    [
        (TIMER, {"ticking": "no"}, "periodic timer no, was yes. It never ticks again."),
        ({"is": "anon_inode:[eventfd]", "semaphore": "yes"}, {"semaphore": "no"}, "EFD_SEMAPHORE no, was yes."),
        ({"is": "/tmp/a", "locks": "FLOCK ADVISORY WRITE 0 EOF"}, {"locks": ""}, "file locks none, was FLOCK"),
        ({"is": "IPv4 UDP, port 1", "IP_TTL": "33"}, {"IP_TTL": "64"}, "IP_TTL 64, was 33."),
        ({"is": "pipe", "flags": "read nonblock"}, {"flags": "read"}, "flags read, was read nonblock."),
    ],
)
def test_each_loss_of_a_descriptor_is_named(facts, changes, said):
    process = {"name": "app"}
    before, after = ({"process 7": process, "descriptor 7 5": each} for each in (facts, {**facts, **changes}))
    (line,) = lost(KernelState(before), KernelState(after))
    assert line.startswith(f"app (7), descriptor 5 ({facts['is']}): {said}")


def test_a_lock_that_is_not_shown_is_gone():
    before = {"is": "/tmp/a", "locks": "POSIX ADVISORY WRITE 0 EOF"}
    assert len(lost(state(descriptor_7_5=before), state(descriptor_7_5={"is": "/tmp/a"}))) == 1


def test_another_thing_of_the_same_number_is_not_compared():
    before, after = {"is": "IPv4 UDP, port 1", "IP_TTL": "33"}, {"is": "IPv4 UDP, port 2", "IP_TTL": "64"}
    assert lost(state(descriptor_7_5=before), state(descriptor_7_5=after)) == ()


def test_a_watch_ends_with_its_descriptor():
    """An application that closes its connections after the restore watches fewer descriptors."""
    watcher, watched = {"is": "anon_inode:[eventpoll]"}, {"is": "IPv4 TCP, port 80"}
    before = state(
        descriptor_7_3={**watcher, "watched descriptors": "5,6"}, descriptor_7_5=watched, descriptor_7_6=watched
    )
    closed = state(descriptor_7_3={**watcher, "watched descriptors": "5"}, descriptor_7_5=watched)
    assert lost(before, closed) == ()
    still_open = KernelState({**closed.subjects, "descriptor 7 6": watched})
    assert "was 5,6" in lost(before, still_open)[0]


def test_signals_that_are_handled_in_addition_are_no_loss():
    before = {"name": "app", "SigCgt": "0000000000000002"}
    assert lost(state(process_7=before), state(process_7={**before, "SigCgt": "0000000000000003"})) == ()
    assert len(lost(state(process_7=before), state(process_7={**before, "SigCgt": "0000000000000001"}))) == 1


def test_memory_that_is_added_to_core_dumps_by_the_application_is_no_loss():
    """The JVM adds its archive of classes to its own core dumps."""
    before, after = {"coredump_filter": "0000003f"}, {"coredump_filter": "00000033"}
    assert lost(state(process_7=before), state(process_7=after)) == ()
    assert len(lost(state(process_7=after), state(process_7=before))) == 1


def test_threads_that_have_lost_the_same_share_a_line():
    before = {f"thread {number}": THREAD for number in (100, 101, 102)}
    after = {subject: {**facts, "Cpus_allowed_list": "0-1"} for subject, facts in before.items()}
    (line,) = lost(KernelState(before), KernelState(after))
    assert line.startswith("service (100) and 2 more: CPU affinity")


def test_options_of_a_socket_share_a_line():
    before = {"is": "IPv4 UDP, port 1", "IP_TTL": "33", "IP_TOS": "1"}
    (line,) = lost(state(descriptor_7_5=before), state(descriptor_7_5={**before, "IP_TTL": "64", "IP_TOS": "0"}))
    assert "IP_TTL 64, was 33; IP_TOS 0, was 1. The socket" in line
    assert line.endswith("[lost-socket-option]")


def test_text_of_the_application_cannot_control_the_terminal():
    before = {**THREAD, "name": "a\x1b[2Jb", "Groups": "1\x1b"}
    (line,) = lost(state(thread_100=before), state(thread_100={**before, "Groups": "2"}))
    assert "\x1b" not in line


@pytest.mark.parametrize("exact", [False, True])
def test_an_image_may_claim_anything(exact):
    facts = dict.fromkeys(
        [*THREAD, "SigIgn", "SigCgt", "coredump_filter", "timers", "locks", "watched descriptors"], "x²"
    )
    claimed = state(thread_1=facts, process_1=facts, descriptor_1_1={**facts, "is": "a"})
    assert lost(claimed, claimed, exact) == ()
    real = state(thread_1=THREAD, process_1=THREAD, descriptor_1_1={"is": "a", "locks": ""})
    assert lost(claimed, real, exact) != ()


def test_only_what_two_looks_show_is_confirmed():
    before, after = state(thread_100=THREAD), state(thread_100={**THREAD, "Groups": "7", "SigBlk": "1"})
    first = find_differences(before, after, exact=False)
    again = find_differences(before, state(thread_100={**THREAD, "Groups": "8"}), exact=False)
    assert [each.fact for each in keep_confirmed(first, again)] == ["Groups"]


def test_what_changes_before_the_dump_is_not_compared():
    first = state(thread_1={"SigBlk": "0", "nice": "7"}, descriptor_1_3={"is": "a"}, descriptor_1_4={"is": "x"})
    second = state(thread_1={"SigBlk": "1", "nice": "7"}, descriptor_1_3={"is": "b"}, descriptor_1_4={"is": "x"})
    assert first.agree(second) == state(thread_1={"nice": "7"}, descriptor_1_4={"is": "x"})


def test_what_no_restorer_keeps_is_known_before_the_dump():
    before = KernelState(
        {
            "network": {"groups": "239.7.7.7 on eth0"},
            "descriptor 7 5": {"is": "anon_inode:[eventfd]", "semaphore": "yes"},
            "descriptor 7 6": {"is": "IPv4 UDP, port 1", "UDP_SEGMENT": "0", "IP_TTL": "33"},
        }
    )
    assert [each.fact for each in find_certain(before, CERTAIN_BY_RUNTIME)] == ["groups", "semaphore"]


def test_a_process_or_file_that_is_gone_is_named_and_a_closed_connection_is_not():
    process, log = {"name": "worker"}, {"is": "/tmp/log", "flags": "write"}
    before = state(process_7=process, thread_7=THREAD, process_8=process, thread_8=THREAD, descriptor_7_3=log)
    connection = KernelState({**before.subjects, "descriptor 7 4": {"is": "IPv4 TCP, port 80", "flags": "read-write"}})
    after = state(process_7=process, thread_7=THREAD)
    codes = {each.rule.code for each in find_differences(connection, after, exact=True)}
    assert codes == {"lost-process", "lost-descriptor"}
    assert {each.subject for each in find_differences(connection, after, exact=True)} == {
        "process 8",
        "descriptor 7 3",
    }
