"""How an inspection is shown, and that nothing in it can steer a terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.checkpoint_archive import SPEC, tar_of, text
from support.checkpoint_image import (
    ANNOTATIONS,
    PROVENANCE,
    checkpoint,
    make_layout,
    make_warm_image,
    real_dump,
    with_credentials,
)

from warmstart.build.result import Report
from warmstart.cli.views.inspect import list_sections, to_document
from warmstart.core.reference import Source, Transport
from warmstart.core.text import Section, printable
from warmstart.image.annotations import Provenance
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.inspect.inspection import Inspection, inspect_archive, inspect_image

EVIL = "\x1b]0;owned\x07\x9b2J\r\n\u202e[bold]\ud800"


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return inspect_image(Source(Transport.OCI, path=make_warm_image(tmp_path_factory.mktemp("image"))))


@pytest.fixture
def archive(tmp_path: Path) -> Inspection:
    (tmp_path / "a.tar").write_bytes(tar_of(*checkpoint()))
    return inspect_archive(tmp_path / "a.tar")


def sections_of(inspection: Inspection, **options: bool) -> dict[str, Section]:
    return {section.title: section for section in list_sections(inspection, **options)}


def values(section: Section) -> dict[str, str]:
    assert section.columns == ()
    return dict(section.rows)


def test_sections_of_an_image(warm: Inspection) -> None:
    found = sections_of(warm)
    assert list(found) == ["image", "layers", "edits", "container", "security", "checkpoint", "processes", "sockets"]
    image = values(found["image"])
    assert image["base image"] == "registry.example.com/app:1.0"
    assert image["restored by"] == "CRI-O"
    assert image["made with"] == "warmstart 0.1.0, CRIU 4.2.1, cri-o 1.36.3, Linux 6.18.44"
    assert image["size"].endswith("compressed, in 3 layers")
    assert image["added"].endswith("KiB to the base image")
    assert [row[2:] for row in found["layers"].rows] == [
        ("tar", "base image", ""),
        ("tar+zstd", "warmstart", ".warmstart/memory"),
        ("tar+zstd", "warmstart", "checkpoint"),
    ]
    assert values(found["edits"]) == {"closed sockets": "2", "mapped": "1.0 MiB"}


@pytest.mark.parametrize(
    ("record", "told", "document"),
    [
        ("[]", "none of those of its build", []),
        (
            '[{"name": "db.password", "places": ["memory", "\\u001b[2J"]}]',
            "db.password (memory, \\x1b[2J)",
            [{"name": "db.password", "places": ["memory", "\x1b[2J"]}],
        ),
    ],
)
def test_secrets_that_the_build_found(tmp_path: Path, record: str, told: str, document: object) -> None:
    image = make_warm_image(tmp_path, {**ANNOTATIONS, "dev.warmstart.secrets": record})
    found = inspect_image(Source(Transport.OCI, path=image))
    assert values(sections_of(found)["image"])["secrets"] == told
    shown = to_document(found)["image"]
    assert (shown["secrets"], shown["notes"]) == (document, {})


@pytest.mark.parametrize(("year", "mark"), [("2026", " (has expired)"), ("9000", "")])
def test_when_the_image_expires(tmp_path: Path, year: str, mark: str) -> None:
    moment = f"{year}-01-01T00:00:00Z"
    image = make_warm_image(tmp_path, {**ANNOTATIONS, "dev.warmstart.expires": moment})
    found = inspect_image(Source(Transport.OCI, path=image))
    assert values(sections_of(found)["image"])["expires"] == f"{moment}{mark}"
    assert to_document(found)["image"]["notes"]["expires"] == moment


def test_an_image_without_a_record_of_secrets(warm: Inspection) -> None:
    assert "secrets" not in values(sections_of(warm)["image"])
    assert to_document(warm)["image"]["secrets"] is None


def test_sections_of_an_archive(archive: Inspection) -> None:
    found = sections_of(archive)
    assert list(found) == ["container", "security", "checkpoint", "processes", "sockets"]
    assert values(found["container"]) == {
        "name": "app",
        "command": "java -jar /app.jar",
        "working directory": "/app/",
        "user": "1000:1000, groups 1000, 2000",
        "root image": "localhost/java-app:1.0",
        "runtime": "runc",
        "created": "2026-03-01T10:00:00+00:00",
        "checkpointed": "2026-03-01T12:00:05+02:00",
        "mounts to have": "/etc/hosts",
        "environment": "PATH, GREETING",
    }
    assert values(found["checkpoint"])["memory"] == "336.0 KiB, 140.0 KiB of it shared"
    assert values(found["checkpoint"])["changed files"] == "2 entries, 2.5 KiB"
    assert values(found["checkpoint"])["deleted files"] == "/var/cache/app"
    assert found["processes"].rows[:2] == (
        ("16", "", "objects", "1", "68.0 KiB", "/scratch/objects sysv"),
        ("17", "16", "objects", "1", "68.0 KiB", "/scratch/objects sysv"),
    )
    assert found["sockets"].rows == (
        ("TCP", "LISTEN", "[::]:8080", ""),
        ("UDP", "", "10.0.0.7:5353", "10.0.0.53:53"),
        ("MPTCP", "LISTEN", "0.0.0.0:9090", ""),
    )


def test_every_row_has_a_cell_for_every_column(warm: Inspection, archive: Inspection) -> None:
    for section in [*list_sections(warm), *list_sections(archive)]:
        assert section.rows
        assert {len(row) for row in section.rows} == {len(section.columns) or 2}


def test_values_of_the_environment_are_shown_only_when_asked(warm: Inspection) -> None:
    shown = [("environment", "PATH=/usr/bin:/bin"), ("environment", r"GREETING=two\nlines")]
    assert [row for row in sections_of(warm, show_env=True)["container"].rows if row[0] == "environment"] == shown
    quiet = json.dumps(to_document(warm)) + repr(list_sections(warm)) + repr(warm.checkpoint)
    assert "GREETING" in quiet
    assert "lines" not in quiet
    assert "hunter2" not in quiet
    loud = to_document(warm, show_env=True)
    assert loud["checkpoint"]["container"]["env"][1] == {"name": "GREETING", "value": "two\nlines"}
    assert "hunter2" in loud["image"]["provenance"]["recipe"]


def test_what_processes_may_do_is_shown(archive: Inspection) -> None:
    security = values(sections_of(archive)["security"])
    assert security["container"] == "capabilities CHOWN; no_new_privs off; 1 system call filter"
    assert security["processes 16, 17, 18"] == (
        "user 0:0; capabilities bounding CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, "
        "NET_BIND_SERVICE; no_new_privs off; 1 system call filter"
    )
    found = to_document(archive)["checkpoint"]
    assert found["container"]["security"]["seccomp"] is True
    assert found["container"]["security"]["capabilities"] == ["CHOWN"]
    (thread,) = found["credentials"][0]["threads"]
    assert (thread["uid"], thread["root"], thread["noNewPrivs"], thread["seccompFilters"]) == (0, True, False, 1)
    assert "SETPCAP" in thread["capabilities"]["bounding"]


SAVED_POD = {
    "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2"}},
    "spec": {
        "initContainers": [{"name": "first", "env": [{"name": "KEY", "value": "hunter2"}]}],
        "containers": [
            {
                "name": "app",
                "env": [{"name": "DB_PASSWORD", "value": "hunter2", "more": ["hunter2"]}, "hunter2"],
                "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": "hunter2"}]}},
            },
            {"name": "odd", "env": {"DB_PASSWORD": "hunter2"}},
        ],
    },
}


DEEP = '{"a":' * 600 + '"hunter2"' + "}" * 600


@pytest.mark.parametrize(
    "pod", [json.dumps(SAVED_POD), "hunter2", '"hunter2"', '["hunter2"]', '{"a": "hunter2", "a": 1}', DEEP]
)
def test_values_in_the_pod_of_a_saved_image_are_shown_only_when_asked(pod: str, tmp_path: Path) -> None:
    layout = make_layout(
        tmp_path / "image", tar_of(*checkpoint()), annotations={CHECKPOINT_NAME: "app", "dev.warmstart.pod": pod}
    )
    saved = inspect_image(Source(Transport.OCI, path=layout))
    quiet = json.dumps(to_document(saved)) + repr(list_sections(saved))
    assert "hunter2" not in quiet
    assert ("DB_PASSWORD" in quiet) == (pod == json.dumps(SAVED_POD))
    assert "hunter2" in json.dumps(to_document(saved, show_env=True))
    assert "hunter2" in repr(list_sections(saved, show_env=True))


def test_what_an_image_asks_for_is_shown(tmp_path: Path) -> None:
    pod = {"spec": {"hostPID": True, "containers": [{"name": "app", "image": "r.io/app:1"}]}}
    dump = {**real_dump(), "core-17.img": with_credentials(real_dump()["core-17.img"], cap_eff=[1 << 21])}
    annotations = {CHECKPOINT_NAME: "app", "dev.warmstart.pod": json.dumps(pod)}
    layout = make_layout(tmp_path / "image", tar_of(*checkpoint(dump)), annotations=annotations)
    found = inspect_image(Source(Transport.OCI, path=layout))
    rows = (
        ("host-pid", "spec.hostPID is true"),
        ("capability=SYS_ADMIN", "the process 17 of the checkpoint has it"),
    )
    assert sections_of(found)["asks for"].rows == rows
    assert to_document(found)["asksFor"] == [{"privilege": name, "where": where} for name, where in rows]


def test_the_document_is_json_with_everything_in_it(warm: Inspection) -> None:
    document = json.loads(json.dumps(to_document(warm)))
    assert document["image"]["base"] == {"name": "registry.example.com/app:1.0", "digest": "sha256:" + "ba" * 32}
    assert document["image"]["platform"] == "linux/amd64"
    assert document["image"]["provenance"]["identity"] == PROVENANCE.identity
    assert document["image"]["provenance"]["edits"]["processes"] == [{"pid": 16}]
    assert [layer["added"] for layer in document["image"]["layers"]] == [False, True, True]
    found = document["checkpoint"]
    assert found["container"]["user"] == {"uid": 1000, "gid": 1000, "groups": [1000, 2000]}
    assert found["container"]["mounts"] == [{"destination": "/etc/hosts", "type": "bind", "readOnly": False}]
    assert found["processes"][2] == {
        "pid": 18,
        "ppid": 17,
        "name": "objects",
        "args": ["/scratch/objects", "sysv"],
        "threads": 1,
        "memoryBytes": 61440,
    }
    assert found["sockets"][1] == {"protocol": "UDP", "state": "", "address": "10.0.0.7:5353", "peer": "10.0.0.53:53"}
    assert (found["memoryBytes"], found["sharedMemoryBytes"]) == (344064, 143360)
    assert (found["rootfsDiff"], found["deletedFiles"]) == ({"entries": 2, "sizeBytes": 2560}, ["/var/cache/app"])


def test_what_could_not_be_read_is_said(tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "image", tar_of(), annotations={CHECKPOINT_NAME: "app"})
    found = inspect_image(Source(Transport.OCI, path=layout))
    assert values(sections_of(found)["checkpoint"]) == {"not read": "none of its layers holds a checkpoint"}
    assert to_document(found)["checkpoint"] is None
    assert to_document(found)["unread"] == "none of its layers holds a checkpoint"


def test_reports(warm: Inspection) -> None:
    report = Report("2026-03-01T10:00:00+00:00", "cri-o 1.36.3", "4.2.1", "6.18\x1b", 3.0, (0.25, 0.2))
    found = replace(warm, reports=(report,))
    assert sections_of(found)["reports"].rows == (
        ("2026-03-01T10:00:00+00:00", r"cri-o 1.36.3, CRIU 4.2.1, Linux 6.18\x1b", "3.00 s", "250 ms, 200 ms"),
    )
    assert to_document(found)["reports"][0]["restoredStartSeconds"] == [0.25, 0.2]
    unread = replace(warm, reports_unread="refused")
    assert values(sections_of(unread)["reports"]) == {"not read": "refused"}


def test_many_deleted_files_are_counted(tmp_path: Path) -> None:
    deleted = [f"/tmp/{number:02}" for number in range(25)]
    (tmp_path / "a.tar").write_bytes(tar_of(*checkpoint(**{"deleted.files": text(deleted)})))
    found = inspect_archive(tmp_path / "a.tar")
    shown = values(sections_of(found)["checkpoint"])["deleted files"]
    assert shown == ", ".join(deleted[:10]) + ", and 15 more"
    assert to_document(found)["checkpoint"]["deletedFiles"] == deleted


@pytest.mark.parametrize(
    ("edits", "rows"),
    [
        ("not JSON", (("edited", "not JSON"),)),
        ("[1]", (("edited", "[1]"),)),
        ('{"a": [1]}', ()),
        ('{"moreBytes": -1, "howMany": true, "ratio": 0.5, "why": "because"}', None),
    ],
)
def test_edits_may_be_anything(edits: str, rows: tuple[tuple[str, str], ...] | None, warm: Inspection) -> None:
    assert warm.image is not None
    changed = replace(warm, image=replace(warm.image, provenance=replace(PROVENANCE, edits=edits)))
    section = sections_of(changed).get("edits")
    expected = (("more", "-1 B"), ("how many", "True"), ("ratio", "0.5"), ("why", "because")) if rows is None else rows
    assert (section.rows if section else ()) == expected
    json.dumps(to_document(changed))


def test_nothing_can_steer_a_terminal(tmp_path: Path) -> None:
    printable_evil = EVIL.replace("\ud800", "")
    provenance = Provenance(**dict.fromkeys(vars(PROVENANCE), printable_evil))
    annotations = {**ANNOTATIONS, **{f"dev.warmstart.{name}": value for name, value in vars(provenance).items()}}
    annotations |= {name: printable_evil for name in ANNOTATIONS if name.startswith("org.")}
    annotations |= {f"dev.warmstart.{printable_evil}": printable_evil}
    process = {**SPEC["process"], "args": [printable_evil], "env": [f"{printable_evil}={printable_evil}"]}
    mounts = [{"destination": "/data", "source": printable_evil}]
    spec = {**SPEC, "process": process, "mounts": mounts}
    dump = {**real_dump()}
    dump["core-16.img"] = dump["core-16.img"].replace(b"objects", b"\x1b[2J\r\n\t")
    members = checkpoint(dump, **{"spec.dump": text(spec), "deleted.files": text([f"/{printable_evil}"])})
    layout = make_layout(
        tmp_path / "image",
        tar_of(*members),
        annotations=annotations,
        history=[{"created_by": "warmstart build: " + printable_evil}],
        media_type=printable_evil,
    )
    found = inspect_image(Source(Transport.OCI, path=layout))
    sections = list_sections(found, show_env=True)
    cells = [cell for section in sections for row in section.rows for cell in row]
    assert all(cell.isprintable() for cell in cells)
    assert sum(r"\x1b]0;owned\x07\x9b2J\r\n\u202e[bold]" in cell for cell in cells) >= 12
    assert r"\x1b[2J\r\n\t" in [row[2] for row in sections[-2].rows]
    assert json.dumps(to_document(found, show_env=True)).isprintable()


def test_printable() -> None:
    assert printable("plain ünïcode 漢字") == "plain ünïcode 漢字"
    assert printable(EVIL) == r"\x1b]0;owned\x07\x9b2J\r\n\u202e[bold]\ud800"
