"""The layers of hooks, and the variables that load the agents."""

from __future__ import annotations

import io
import re
import tarfile

import pytest
import zstandard
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import make_layout

from warmstart.dump.archive.tarball import Kind
from warmstart.image.cache.blobs import ListedMember
from warmstart.image.hooks import add_variables, find_limit_s, find_runtimes, pack_agents, pack_fifos
from warmstart.image.layout import read_image
from warmstart.node.hooks import find_agents, hooks_key
from warmstart.recipe.model import DEFAULT_HOOKS, Container, Runtime
from warmstart.recipe.schema import recipe_schema

EVERY = tuple(Runtime)


@pytest.fixture
def config(tmp_path):
    make_layout(tmp_path / "base", tar_of(entry("app", b"x")), annotations={})
    return read_image(tmp_path / "base").config


def members(layout, layer):
    blob = (layout / "blobs" / layer.blob.digest.replace(":", "/")).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(blob))) as tar:
        return {one.name: one for one in tar.getmembers()}


def test_the_users_variables_are_kept(config):
    own = {"JAVA_TOOL_OPTIONS": "-Xmx1g", "PYTHONPATH": "/opt", "NODE_OPTIONS": "--no-warnings", "A": "1"}
    env = dict(add_variables(Container("x", env=tuple(own.items())), config, EVERY, ["A", "B"], keep_servers=False).env)
    assert env == {
        "JAVA_TOOL_OPTIONS": "-Xmx1g -javaagent:/.warmstart/hooks/agent.jar",
        "PYTHONPATH": "/.warmstart/hooks/python:/opt",
        "NODE_OPTIONS": "--no-warnings --require /.warmstart/hooks/node/hooks.cjs",
        "A": "1",
        "WARMSTART_HOOKS": "/.warmstart/hooks",
        "WARMSTART_HOOKS_LATE": "A,B",
    }


def test_without_a_value_there_is_no_empty_entry(config):
    env = dict(add_variables(Container("x"), config, [Runtime.PYTHON], [], keep_servers=False).env)
    assert env == {"PYTHONPATH": "/.warmstart/hooks/python", "WARMSTART_HOOKS": "/.warmstart/hooks"}


@pytest.mark.parametrize(("own", "kept"), [({}, "web-servers"), ({"WARMSTART_HOOKS_KEEP": ""}, "")])
def test_web_servers_may_go_on_listening(config, own, kept):
    env = add_variables(Container("x", env=tuple(own.items())), config, [], [], keep_servers=True).env
    assert dict(env)["WARMSTART_HOOKS_KEEP"] == kept


@pytest.mark.parametrize(("value", "limit_s"), [("", 30), ("5", 5), ("0.5", 0.5), ("0", 30), ("many", 30), ("-1", 30)])
def test_the_limit_is_a_variable(config, value, limit_s):
    assert find_limit_s(Container("x", env=(("WARMSTART_HOOKS_LIMIT", value),)), config) == limit_s


def test_the_layer_has_agents_and_one_fifo_for_everybody(tmp_path):
    (tmp_path / "agent").write_text("code")
    found = members(tmp_path, pack_agents({"python/sub/agent.py": tmp_path / "agent"}, tmp_path))
    assert [*found] == [
        ".warmstart",
        ".warmstart/hooks",
        ".warmstart/hooks/python",
        ".warmstart/hooks/python/sub",
        ".warmstart/hooks/python/sub/agent.py",
        ".warmstart/hooks/reply",
    ]
    fifo = found[".warmstart/hooks/reply"]
    assert (fifo.type, fifo.mode, fifo.uid) == (tarfile.FIFOTYPE, 0o666, 0)
    assert ".warmstart/hooks/restored" in members(tmp_path, pack_fifos(["restored"], tmp_path))


class Known:
    def __init__(self, *names: str) -> None:
        self._names = names

    def read_members(self, layer, diff_id):
        return [ListedMember(name, Kind.FILE, "") for name in self._names]


@pytest.mark.parametrize(
    ("names", "runtimes"),
    [
        (["usr/bin/sh", "usr/lib/node", "opt/java"], ()),
        (["usr/lib/jvm/java-21/bin/java"], (Runtime.JAVA,)),
        (["usr/bin/python3.13", "bin/nodejs"], (Runtime.PYTHON, Runtime.NODE)),
        (["usr/bin/python3-config", "usr/bin/javac"], ()),
    ],
)
def test_auto_means_the_runtimes_of_the_image(config, tmp_path, names, runtimes):
    assert find_runtimes(tmp_path / "base", Known(*names)) == runtimes


def test_auto_means_all_if_the_files_of_the_image_are_not_known(config, tmp_path):
    assert find_runtimes(tmp_path / "base", None) == EVERY


def test_the_modules_of_an_agent_are_its_sources(tmp_path):
    files = find_agents([Runtime.PYTHON], tmp_path, print)
    assert "python/sitecustomize.py" in files
    assert not [name for name in files if not name.endswith(".py")]
    assert re.fullmatch("[0-9a-f]{12}", hooks_key())


def test_the_schema_has_the_same_default():
    assert recipe_schema()["properties"]["hooks"]["default"] == DEFAULT_HOOKS
