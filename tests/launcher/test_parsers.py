"""The launcher's parsers: users, manifests, /proc, and CRIU's log."""

from __future__ import annotations

from pathlib import Path

import pytest

MANIFEST = """\
warmstart 1
argument java
argument -Dgreeting=two\\x0awords and more
user 1000
group 1001
groups 5 2000
pid 100
stdout 4711
stderr 4712
file 12 core-100.img
file 70000000000 a name.img
listen tcp4 80 4096 17
listen tcp6 65535 0 18
listen tcp46 8080 1 4294967296
cpu avx2 no-such-feature
monotonic 12000000000
boottime 12000000001
end
"""
PASSWD = "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1001:,,,:/home/app:/bin/sh\n7:x:1007:1007::/seven:/bin/sh\n"
GROUP = "root:x:0:\nworkers:x:2000:other,app\nvideo:x:44:root,app\napplike:x:45:application\n"


def test_reads_a_whole_manifest(parse):
    lines = parse("manifest", text=MANIFEST).splitlines()
    assert lines[:7] == [
        "argument java",
        "argument -Dgreeting=two\\x0awords and more",
        "file core-100.img 12",
        "file a name.img 70000000000",
        "listen v6 0 only 0 port 80 backlog 4096 inode 17",
        "listen v6 1 only 1 port 65535 backlog 0 inode 18",
        "listen v6 1 only 0 port 8080 backlog 1 inode 4294967296",
    ]
    assert lines[-2:] == [
        "user 1000 group 1001 groups 5 2000 home ",
        "pid 100 pipes 4711 4712 clocks 12000000000 12000000001 complete 1",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("warmstart 1", "warmstart 2", "this launcher does not support the manifest's format"),
        ("user 1000", "user 4294967296", "line 4 of the manifest is invalid"),
        ("user 1000", "user -1", "line 4 of the manifest is invalid"),
        ("groups 5 2000", "groups 5 x", "line 6 of the manifest is invalid"),
        ("pid 100", "pid 0", "line 7 of the manifest is invalid"),
        ("file 12 core-100.img", "file 12", "line 10 of the manifest is invalid"),
        ("tcp4", "tcp5", "line 12 of the manifest is invalid"),
        ("tcp4 80", "tcp4 65536", "line 12 of the manifest is invalid"),
        ("80 4096 17", "80 4096", "line 12 of the manifest is invalid"),
        ("80 4096 17", "80 4096 17 18", "line 12 of the manifest is invalid"),
        ("end\n", "end\nend\n", "line 19 of the manifest is invalid"),
        ("monotonic", "monotonous", "line 16 of the manifest is invalid"),
        ("pid 100\n", "", "has no pid or no command"),
    ],
)
def test_says_what_is_wrong_with_a_manifest(parse, old, new, said):
    assert said in parse("manifest", text=MANIFEST.replace(old, new))


def test_an_unfinished_manifest_is_not_complete(parse):
    assert "complete 0" in parse("manifest", text=MANIFEST.replace("end\n", ""))


@pytest.mark.parametrize(
    ("user", "identity"),
    [
        ("", "user 0 group 0 groups 44 home /root"),
        ("root", "user 0 group 0 groups 44 home /root"),
        ("app", "user 1000 group 1001 groups 2000 44 home /home/app"),
        ("1000", "user 1000 group 1001 groups 2000 44 home /home/app"),
        ("app:video", "user 1000 group 44 groups home /home/app"),
        ("app:3000", "user 1000 group 3000 groups home /home/app"),
        ("4000", "user 4000 group 0 groups home /"),
        ("4000:4001", "user 4000 group 4001 groups home /"),
        ("7", "user 1007 group 1007 groups home /seven"),
        ("nobody", "the image has no user nobody"),
        ("app:nogroup", "the image has no group nogroup"),
        ("99999999999", "the image has no user 99999999999"),
    ],
)
def test_resolves_users_as_runtimes_do(parse, user, identity):
    assert parse("user", text=f"{user}\n--\n{PASSWD}\n--\n{GROUP}").strip() == identity


def test_resolves_numbers_without_a_user_database(parse):
    assert parse("user", text="12:34").strip() == "user 12 group 34 groups home /"


@pytest.mark.parametrize(
    ("stat", "parent"),
    [
        ("42 (sh) S 7 42 42 0 -1", "7"),
        ("42 (a) b) S 1 ( 42) R 8 42", "8"),
        ("42 (sh", "none"),
        ("42 (sh) S", "none"),
        ("", "none"),
    ],
)
def test_finds_the_parent_whatever_the_name(parse, stat, parent):
    assert parse("parent", text=stat).strip() == parent


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("36 35 0:30 / /dev/shm rw,nosuid - tmpfs shm rw,size=65536k", "/dev/shm"),
        ("36 35 0:30 / /cache rw,relatime shared:2 master:1 - tmpfs tmpfs rw", "/cache"),
        ("36 35 98:0 / /data rw - ext4 /dev/sda rw", "none"),
        ("36 35 98:0 / /data rw", "none"),
        ("36", "none"),
    ],
)
def test_finds_tmpfs_mounts(parse, line, place):
    assert parse("tmpfs", text=line).strip() == place


def test_takes_the_first_error_from_the_log(parse):
    log = (
        "(00.000012) Warn  (criu/kerndat.c:1200): no directory\n"
        + "x" * 5000
        + "\n(00.1)    100: Error (criu/files.c:12): Can't open a: No such file\n(00.2) Error (criu/a.c:1): FAILED.\n"
    )
    assert parse("log", text=log).strip() == "Can't open a: No such file"


def test_a_log_without_errors_has_none(parse):
    assert parse("log", text="(00.1) Warn  (criu/a.c:1): so so\nError (unfinished").strip() == ""


@pytest.mark.parametrize("seed", [MANIFEST, f"app:video\n--\n{PASSWD}\n--\n{GROUP}", "42 (sh) S 7 42 42 0 -1"])
def test_survives_any_input(parse, seed):
    parse("fuzz", "20000", text=seed)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "fuzz/corpus/launcher").glob("*")), ids=str)
def test_what_was_found_once(parse, path):
    parse("again", text=path.read_bytes())
