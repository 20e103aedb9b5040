"""The launcher's parsers: users, manifests, /proc, and CRIU's log."""

from __future__ import annotations

import hashlib
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
difference warn
salt 000102030405060708090a0b0c0d0e0f
frozen 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff DB_URL
frozen 00112233445566778899aabbccddeeff00112233445566778899aabbccddee01 A\\x20B
late DB_PASSWORD
volume /data
volume /var/lib/my\\x20app
step signal 12
step exec 30000 /bin/refresh two\\x20words \\
step http 1500 8080 - GET\\x20/\\x20HTTP/1.1\\x0d\\x0a\\x0d\\x0a
step http 1500 8080 other.host GET
hooks 30000 100 112
expires 1798761600
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
    assert lines[9:16] == [
        "frozen DB_URL 00...ff",
        "frozen A B 00...01",
        "late DB_PASSWORD",
        "volume /data",
        "volume /var/lib/my app",
        "step signal 12 limit 0",
        "step signal 0 limit 30000 </bin/refresh> <two words> <>",
    ]
    assert lines[16].startswith("step signal 0 limit 1500 host own port 8080 request <GET / HTTP/1.1")
    assert "step signal 0 limit 1500 host other.host port 8080 request <GET>" in lines
    assert lines[-5:] == [
        "hook 100 limit 30000",
        "hook 112 limit 30000",
        "salt 00...0f warns 1",
        "user 1000 group 1001 groups 5 2000 home ",
        "pid 100 pipes 4711 4712 clocks 12000000000 12000000001 expires 1798761600 complete 1",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("warmstart 1", "warmstart 2", "this launcher does not support the manifest's format"),
        ("user 1000", "user 4294967296", "line 4 of the manifest is invalid"),
        ("user 1000", "user -1", "line 4 of the manifest is invalid"),
        ("expires 1798761600", "expires 253402300800", "line 30 of the manifest is invalid"),
        ("groups 5 2000", "groups 5 x", "line 6 of the manifest is invalid"),
        ("pid 100", "pid 0", "line 7 of the manifest is invalid"),
        ("file 12 core-100.img", "file 12", "line 10 of the manifest is invalid"),
        ("tcp4", "tcp5", "line 12 of the manifest is invalid"),
        ("tcp4 80", "tcp4 65536", "line 12 of the manifest is invalid"),
        ("80 4096 17", "80 4096", "line 12 of the manifest is invalid"),
        ("80 4096 17", "80 4096 17 18", "line 12 of the manifest is invalid"),
        ("end\n", "end\nend\n", "line 32 of the manifest is invalid"),
        ("difference warn", "difference perhaps", "line 18 of the manifest is invalid"),
        ("salt 00", "salt 0", "line 19 of the manifest is invalid"),
        ("salt 00", "salt 0G", "line 19 of the manifest is invalid"),
        ("ee01 A", "e01 A", "line 21 of the manifest is invalid"),
        (" DB_URL", "", "line 20 of the manifest is invalid"),
        (" DB_URL", " DB URL", "line 20 of the manifest is invalid"),
        (" DB_URL", " DB\\xURL", "line 20 of the manifest is invalid"),
        (" DB_URL", " DB\\x00", "line 20 of the manifest is invalid"),
        (" DB_URL", " DB\\x4", "line 20 of the manifest is invalid"),
        ("late DB_PASSWORD", "late", "line 22 of the manifest is invalid"),
        ("signal 12", "signal 0", "line 25 of the manifest is invalid"),
        ("signal 12", "signal 65", "line 25 of the manifest is invalid"),
        ("signal 12", "signal 12 12", "line 25 of the manifest is invalid"),
        ("signal 12", "kill 12", "line 25 of the manifest is invalid"),
        ("exec 30000", "exec", "line 26 of the manifest is invalid"),
        ("exec 30000", "exec 0", "line 26 of the manifest is invalid"),
        (" /bin/refresh two\\x20words \\", "", "line 26 of the manifest is invalid"),
        ("/bin/refresh", "/bin/\tr", "line 26 of the manifest is invalid"),
        ("8080 -", "0 -", "line 27 of the manifest is invalid"),
        ("8080 -", "65536 -", "line 27 of the manifest is invalid"),
        ("8080 - ", "8080 ", "line 27 of the manifest is invalid"),
        ("8080 other.host GET", "8080 other.host GET /", "line 28 of the manifest is invalid"),
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


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("HTTP/1.1 200 OK\r\n", 200),
        ("HTTP/1.0 503\n", 503),
        ("HTTP/1.1 204\r\n", 204),
        ("HTTP/1.1 204", 204),
        ("HTTP/1.1 2000 OK", 0),
        ("HTTP/1.1 20", 0),
        ("HTTP/1.1 600 What", 0),
        ("HTTP/2 200", 0),
        ("HTTP/1.1", 0),
        ("220 smtp", 0),
        ("", 0),
    ],
)
def test_reads_the_status_of_an_answer(parse, line, status):
    assert parse("status", text=line).strip() == str(status)


@pytest.mark.parametrize("length", [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 1000])
def test_hashes_as_everybody_does(parse, length):
    text = "".join(chr(33 + number % 90) for number in range(length))
    assert parse("sha256", text=text).strip() == hashlib.sha256(text.encode()).hexdigest()


OF_THE_CLUSTER = """\
KUBERNETES_SERVICE_HOST=10.0.0.1
MY_DB_SERVICE_HOST=10.0.0.7
MY_DB_SERVICE_PORT=5432
MY_DB_SERVICE_PORT_SQL=5432
MY_DB_PORT=tcp://10.0.0.7:5432
MY_DB_PORT_5432_TCP=tcp://10.0.0.7:5432
MY_DB_PORT_5432_TCP_PROTO=tcp
MY_DB_PORT_5432_TCP_PORT=5432
MY_DB_PORT_5432_TCP_ADDR=10.0.0.7
SIX_SERVICE_HOST=fd00::7
DNS_PORT_53_UDP_ADDR=10.0.0.7
HOSTNAME=pod-1
PATH=/bin
WARMSTART_ON_DIFFERENCE=warn
"""


def test_what_kubernetes_sets_is_not_news(parse):
    assert parse("variables", text=OF_THE_CLUSTER) == ""


@pytest.mark.parametrize(
    "variable",
    [
        "DB_PORT=5432",
        "MY_DB_SERVICE_HOST=db.example.org",
        "MY_DB_SERVICE_PORT=sql",
        "MY_DB_PORT_X_TCP=1",
        "MY_DB_PORT_1_ICMP=1",
        "MY_DB_PORT_1_TCP_NAME=1",
        "MODE=fast",
    ],
)
def test_what_only_the_pod_has_is_news_with_its_name_alone(parse, variable):
    name = variable.partition("=")[0]
    assert parse("variables", text=OF_THE_CLUSTER + variable) == (
        f"warmstart: not in the environment of the restored application, because the build did not have it: {name}\n"
    )


def test_names_in_the_log_are_escaped_and_end_somewhere(parse):
    text = "A\x1b[31m=1\n" + "".join(f"NAME_{number}_{'X' * 90}=1\n" for number in range(50))
    said = parse("variables", text=text)
    assert "A\\x1b[31m, NAME_0_" in said
    assert said.endswith(", ...\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("65536 131072 /lib/libc.so.6", "65536 131072 </lib/libc.so.6>"),
        ("0 1 /a\\x20b\\x0a", "0 1 </a b\n>"),
        ("0 1 a", "none"),
        ("0 1 \\", "none"),
        ("0 1 /a more", "none"),
        ("0 1", "none"),
        ("-1 1 /a", "none"),
        ("0 9223372036854775807 /a", "none"),
        ("", "none"),
    ],
)
def test_reads_the_list_of_what_to_read_ahead(parse, line, found):
    assert parse("range", text=line) == f"{found}\n"


def test_a_log_without_errors_has_none(parse):
    assert parse("log", text="(00.1) Warn  (criu/a.c:1): so so\nError (unfinished").strip() == ""


@pytest.mark.parametrize("seed", [MANIFEST, f"app:video\n--\n{PASSWD}\n--\n{GROUP}", "42 (sh) S 7 42 42 0 -1"])
def test_survives_any_input(parse, seed):
    parse("fuzz", "20000", text=seed)


@pytest.mark.parametrize(
    ("since", "now", "expected"),
    [
        (100, 100, "within"),
        (100, 104, "within"),
        (100, 105, "no"),
        # Restored by a runtime on a node that was started later than the builder.
        (100, 7, "no"),
        (2**64 - 3, 2**64 - 1, "within"),
    ],
)
def test_an_end_is_right_after_a_restore_only_by_the_same_clock(parse, since, now, expected):
    assert parse("times", text=f"{since} {now} 5").strip() == expected


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "fuzz/corpus/launcher").glob("*")), ids=str)
def test_what_was_found_once(parse, path):
    parse("again", text=path.read_bytes())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"pid": 12, "event": "restored", "seconds": 0.045}', "12 <restored> <>"),
        (' { "event":"failed" ,"error":"a \\"b\\" \\u00fc\\u20ac","pid":7,"x":null} ', '7 <failed> <a "b" ü€>'),
        ('{"pid": 12}', "none"),
        ('{"event": "restored"}', "none"),
        ('{"pid": 0, "event": "restored"}', "none"),
        ('{"pid": "12", "event": "restored"}', "12 <restored> <>"),
        ('{"pid": 99999999999, "event": "restored"}', "none"),
        ('{"pid": 12, "event": "restored"', "none"),
        ('{"pid": 12, "event": "restored"} more', "none"),
        ('{"pid": 12, "event": "restored\\', "none"),
        ('{"pid": 12, "event": "restored\\u12"}', "none"),
        ('{"pid": 12, "event": {"a": 1}}', "none"),
        ("[]", "none"),
        ("", "none"),
    ],
)
def test_reads_the_answers_of_agents(parse, line, found):
    assert parse("reply", text=line) == f"{found}\n"
