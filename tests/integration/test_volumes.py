"""The volumes of a pod, in the container of a build and in the restored one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.evaluator import RESTRICTED, ask, make_recipe, path_of, with_container

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.errors import PreflightError
from warmstart.core.privileges import Kind, Privilege
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import start_engine
from warmstart.recipe.model import Recipe, SecurityContext, Volume, VolumeFile, VolumeKind, VolumeMount

pytestmark = pytest.mark.node

NAME = "localhost/tests/volumes:1"
TMP = Volume("tmp", VolumeKind.EMPTY_DIR)
FAST = Volume("fast", VolumeKind.EMPTY_DIR, in_memory=True, size_limit_bytes=1 << 20)
CLAIM = Volume("claim", VolumeKind.LASTING)
CONF = Volume(
    "conf", VolumeKind.FILES, (VolumeFile("app.yaml", b"build"), VolumeFile("tls/key", b"build's key", 0o400))
)
MOUNTS = (
    VolumeMount(TMP, "/tmp"),
    VolumeMount(FAST, "/fast"),
    VolumeMount(CLAIM, "/claim"),
    VolumeMount(TMP, "/claim/in", read_only=True, sub_path="a/b"),
    VolumeMount(CONF, "/etc/conf"),
    VolumeMount(CONF, "/etc/one.yaml", sub_path="app.yaml"),
)
GROUP = 4321
PRIVILEGED = SecurityContext(run_as_user=1000, run_as_group=1000, privileged=True, read_only_root_filesystem=True)
LOOK = {
    "open('/tmp/written', 'w').write('x')": "1",
    "open('/fast/written', 'w').write('x')": "1",
    "open('/claim/written', 'w').write('x')": "1",
    "os.access('/claim/in', os.W_OK)": "False",
    "os.access('/etc/conf', os.W_OK)": "False",
    "os.access('/usr', os.W_OK)": "False",
    "open('/etc/conf/tls/key').read()": "build's key",
    "os.readlink('/etc/conf/app.yaml')": "..data/app.yaml",
    "[oct(os.stat(p).st_mode & 0o7777) for p in ('/tmp', '/fast', '/claim', '/claim/in', '/etc/conf')]": str(
        ["0o2777", "0o3777", "0o2777", "0o2777", "0o2777"]
    ),
    "[os.stat(p).st_gid for p in ('/tmp', '/fast/written', '/claim/in', '/etc/conf/tls/key')]": str([GROUP] * 4),
    f"{GROUP} in os.getgroups()": "True",
    "os.statvfs('/fast').f_blocks * os.statvfs('/fast').f_frsize": str(1 << 20),
}


def make(context: SecurityContext = RESTRICTED) -> Recipe:
    warmup = [{"httpGet": {"path": path_of(expression), "port": 8080}} for expression in LOOK]
    recipe = make_recipe(NAME, warmup=warmup, restore=["runtime"])
    return with_container(recipe, volume_mounts=MOUNTS, security_context=context, fs_group=GROUP)


def build(recipe: Recipe, cache, output: Output) -> None:
    options = BuildOptions(cache, output, allowed=[Privilege(Kind.PRIVILEGED)])
    build_image(recipe, options, Progress(SilentListener()))


def has_all_capabilities() -> bool:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^CapBnd:\t(\w+)$", status, re.MULTILINE)[1], 16) == (1 << last + 1) - 1


@contextmanager
def restored(open_node, layout, recipe: Recipe) -> Iterator[CriContainer]:
    with open_node() as session:
        shutil.move(layout, session.workspace / "layout")
        with start_engine(session, "other", subnet="10.77.0.0/24") as engine:
            engine.import_image(session.workspace / "layout", NAME)
            with engine.cri.start(recipe.container, NAME, "pod") as running:
                assert running.restored
                yield running


@pytest.mark.parametrize("context", [RESTRICTED, PRIVILEGED], ids=["restricted", "privileged"])
def test_a_restored_container_has_the_volumes_of_its_own_pod(open_node, cache, tmp_path, context):
    if context.privileged and not has_all_capabilities():
        pytest.skip("root lacks capabilities here, and the runtime cannot give them to a container")
    recipe = make(context)
    output = Output(Transport.OCI, tmp_path / "out")
    build(recipe, cache, output)
    other = replace(CONF, files=(VolumeFile("app.yaml", b"pod"), CONF.files[1]))
    mounts = tuple(replace(mount, volume=other) if mount.volume is CONF else mount for mount in MOUNTS)
    with restored(open_node, output.path, with_container(recipe, volume_mounts=mounts)) as running:
        assert ask(running, "open('/etc/conf/app.yaml').read() + open('/etc/one.yaml').read()") == "podpod"
        assert ask(running, "os.listdir('/tmp'), os.listdir('/claim'), os.listdir('/fast')") == "(['a'], ['in'], [])"
        assert {expression: ask(running, expression) for expression in LOOK} == LOOK


@pytest.mark.parametrize("place", ["/tmp/open", "/etc/conf/app.yaml", "/claim/open"])
def test_a_file_in_use_on_a_volume_is_said_before_the_checkpoint(cache, tmp_path, place):
    mode = "r" if place.startswith("/etc") else "w"
    recipe = with_container(
        make_recipe(NAME, begin=f"f = open({place!r}, {mode!r})", restore=["runtime"]),
        volume_mounts=MOUNTS,
        fs_group=GROUP,
    )
    with pytest.raises(PreflightError) as caught:
        build(recipe, cache, Output(Transport.OCI, tmp_path / "out"))
    assert "[open-on-volume]" in caught.value.details[0]
