"""Errors in the JSON members of an archive, and their reported locations."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.checkpoint_archive import BIND_MOUNTS, CONFIG, ID, SPEC

from warmstart.core.errors import ArchiveError
from warmstart.dump.archive.metadata import (
    Capabilities,
    User,
    parse_bind_mounts,
    parse_config,
    parse_deleted_files,
    parse_spec,
)

METADATA = "io.kubernetes.cri-o.Metadata"


def config(**fields: Any) -> str:
    return json.dumps({**CONFIG, **fields})


def process(**fields: Any) -> str:
    return json.dumps({**SPEC, "process": {**SPEC["process"], **fields}})


def spec(**fields: Any) -> str:
    return json.dumps({**SPEC, **fields})


def mount(**fields: Any) -> str:
    return json.dumps([BIND_MOUNTS[0], {**BIND_MOUNTS[0], **fields}])


CASES: list[tuple[Callable[[bytes, str], object], str | bytes, str]] = [
    # Not JSON, or not as a reader in Go would read it
    (parse_config, b"", " is not JSON, at line 1, column 1: Expecting value"),
    (parse_config, b'{"id": "\xff"}', " is not UTF-8, at byte 8"),
    (
        parse_config,
        b"\xef\xbb\xbf{}",
        " is not JSON, at line 1, column 1: Unexpected UTF-8 BOM (decode using utf-8-sig)",
    ),
    (parse_config, "[" * 100_000, " is nested too deeply"),
    (parse_config, '{"a":' * 100_000, " is nested too deeply"),
    (parse_config, "[]", " is a list; expected an object"),
    (parse_config, "null", " is null; expected an object"),
    (parse_config, '"id"', " is a string; expected an object"),
    (parse_config, '{"id": "a", "id": "b"}', " is not acceptable JSON: the key 'id' is there more than once"),
    (
        parse_spec,
        '{"process": {"user": {"uid": 0, "uid": 0}}}',
        " is not acceptable JSON: the key 'uid' is there more than once",
    ),
    (parse_config, '{"id": NaN}', " is not acceptable JSON: NaN is no number"),
    (
        parse_config,
        config(ID="00" * 32),
        ": id is written 'ID', which runtimes take for the same",
    ),
    (
        parse_config,
        json.dumps({**CONFIG, "rootf\u017fImageRef": ""}),
        ": rootfsImageRef is written 'rootf\u017fImageRef', which runtimes take for the same",
    ),
    # config.dump
    (parse_config, "{}", ": id is missing"),
    (parse_config, config(id=None), ": id is missing"),
    (parse_config, config(id=7), ": id is a number; expected a string"),
    (parse_config, config(id="../../etc"), ": id is '../../etc'; expected 64 hexadecimal digits"),
    (parse_config, config(id=ID.upper()), f": id is '{ID.upper()}'; expected 64 hexadecimal digits"),
    (parse_config, config(id=ID + "\n"), f": id is '{ID}\\n'; expected printable characters"),
    (parse_config, config(name=["a"]), ": name is a list; expected a string"),
    (parse_config, config(name="a\x1b[2J"), r": name is 'a\x1b[2J'; expected printable characters"),
    (parse_config, config(runtime={}), ": runtime is an object; expected a string"),
    (parse_config, config(rootfsImageName=False), ": rootfsImageName is a boolean; expected a string"),
    (parse_config, config(createdTime=None), ": createdTime is missing"),
    (
        parse_config,
        config(createdTime="yesterday"),
        ": createdTime is 'yesterday'; expected a time as in RFC 3339",
    ),
    (
        parse_config,
        config(checkpointedTime="2026-03-01T10:00:00"),
        ": checkpointedTime is '2026-03-01T10:00:00'; expected a time as in RFC 3339",
    ),
    # spec.dump
    (parse_spec, "{}", ": process.args is missing or empty"),
    (parse_spec, spec(process=[]), ": process is a list; expected an object"),
    (parse_spec, process(args=[]), ": process.args is missing or empty"),
    (parse_spec, process(args="java"), ": process.args is a string; expected a list"),
    (parse_spec, process(args=["java", 7]), ": process.args[1] is a number; expected a string"),
    (
        parse_spec,
        process(env=["A=a\0B=b"]),
        ": process.env[0] holds a NUL character",
    ),
    (
        parse_spec,
        process(env=["A=\udc80"]),
        " is not acceptable JSON: a string holds half a surrogate pair",
    ),
    (parse_spec, process(cwd=None), ": process.cwd is missing"),
    (parse_spec, process(cwd="app"), ": process.cwd is 'app'; expected an absolute path without '..'"),
    (parse_spec, process(user={"uid": -1}), ": process.user.uid is -1; expected 0 to 4294967295"),
    (parse_spec, process(user={"uid": 1e3}), ": process.user.uid is a number; expected a whole number"),
    (parse_spec, process(user={"gid": True}), ": process.user.gid is a boolean; expected a whole number"),
    (parse_spec, process(user={"Gid": 0}), ": process.user.gid is written 'Gid', which runtimes take for the same"),
    (
        parse_spec,
        process(user={"additionalGids": [1, 2**32]}),
        ": process.user.additionalGids[1] is 4294967296; expected 0 to 4294967295",
    ),
    (
        parse_spec,
        process(capabilities={"effective": "ALL"}),
        ": process.capabilities.effective is a string; expected a list",
    ),
    (parse_spec, spec(mounts=[{}]), ": mounts[0].destination is missing"),
    (parse_spec, spec(mounts=["/proc"]), ": mounts[0] is a string; expected an object"),
    (parse_spec, spec(annotations={"a": 1}), ": annotations.a is a number; expected a string"),
    (parse_spec, spec(annotations={"\x1b": 1}), r": 'annotations.\x1b' is a number; expected a string"),
    (
        parse_spec,
        spec(annotations={METADATA: "{"}),
        f": the annotation {METADATA} is not JSON, at line 1, column 2:"
        " Expecting property name enclosed in double quotes",
    ),
    (parse_spec, spec(annotations={METADATA: "[]"}), f": the annotation {METADATA} is a list; expected an object"),
    # bind.mounts
    (parse_bind_mounts, "{}", " is an object; expected a list"),
    (parse_bind_mounts, "[7]", ": [0] is a number; expected an object"),
    (
        parse_bind_mounts,
        mount(source="/var/../../etc"),
        ": [1].source is '/var/../../etc'; expected an absolute path without '..'",
    ),
    (parse_bind_mounts, mount(source="etc"), ": [1].source is 'etc'; expected an absolute path without '..'"),
    (parse_bind_mounts, mount(destination=None), ": [1].destination is missing"),
    (parse_bind_mounts, mount(file_type="device"), ": [1].file_type is 'device'; expected file or directory"),
    (parse_bind_mounts, mount(permissions=0o4755), ": [1].permissions is 2541; expected 0 to 511"),
    # deleted.files
    (parse_deleted_files, "{}", " is an object; expected a list"),
    (parse_deleted_files, '["/a", 7]', ": [1] is a number; expected a string"),
    *(
        (
            parse_deleted_files,
            json.dumps([path]),
            f": [0] is {path!r}; expected an absolute path below / without '..'",
        )
        for path in ("", "a", "/", "//", "/.", "/..", "/a/../b")
    ),
    (
        parse_deleted_files,
        json.dumps(["/" + "x" * 4096]),
        f": [0] is '/{'x' * 116}...'; expected an absolute path below / without '..'",
    ),
]


@pytest.mark.parametrize(("parse", "document", "wrong"), CASES)
def test_refuses(parse: Callable[[bytes, str], object], document: str | bytes, wrong: str) -> None:
    data = document if isinstance(document, bytes) else document.encode()
    with pytest.raises(ArchiveError) as caught:
        parse(data, "WHERE")
    assert caught.value.brief == f"WHERE{wrong}"


def test_what_go_leaves_out_when_empty() -> None:
    bare = parse_spec(b'{"process": {"args": ["true"], "cwd": "/", "user": {}}}', "WHERE")
    assert bare.user == User(0, 0, ())
    assert bare.capabilities == Capabilities((), (), (), (), ())
    assert (bare.env, bare.mounts, bare.annotations, bare.container_name) == ((), (), {}, "")
    sparse = {key: CONFIG[key] for key in ("id", "name", "createdTime")}
    assert parse_config(json.dumps(sparse).encode(), "WHERE").rootfs_image_ref == ""
    assert parse_deleted_files(b"null", "WHERE") == ()


def test_large_documents_are_not_slow() -> None:
    """Documents of any shape within the size limit of JSON members. On failure, the test's time limit expires."""
    many = {f"key{number}": "" for number in range(200_000)}
    with pytest.raises(ArchiveError, match="id is missing"):
        parse_config(json.dumps(many).encode(), "WHERE")
    paths = ["/" + "a/" * 2047 for _ in range(1000)]
    assert len(parse_deleted_files(json.dumps(paths).encode(), "WHERE")) == 1000
