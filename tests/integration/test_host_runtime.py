"""Build on the CRI-O of the host.

The host is a separate node that runs CRI-O and `warmstart`, like a real one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cri_api.v1 import api_pb2 as cri
from support.builds import PORT, READY, STATE, write_recipe
from support.evaluator import IMAGES, make_document, path_of

import warmstart
from warmstart.cli.interruption import TERMINATED
from warmstart.core.errors import EngineError
from warmstart.core.process import Finished
from warmstart.engine.cri import CriEngine
from warmstart.engine.local import RUNROOT
from warmstart.image.annotations import read_provenance
from warmstart.image.layout import read_image
from warmstart.image.skopeo import copy_image
from warmstart.node.crio import PAUSE_IMAGE, run_crio
from warmstart.node.keeper import Bind
from warmstart.node.session import Session
from warmstart.node.tree import PAUSE_LAYOUT

pytestmark = pytest.mark.node

REPOSITORY = Path(warmstart.__file__).parents[1]
STRIKE = Path(__file__).parents[1] / "support" / "strike.py"
BUILD_S = 300.0
IMAGE = "localhost/tests/host:1"


@dataclass(frozen=True)
class Host:
    """A machine with CRI-O."""

    session: Session
    runtime: CriEngine
    cache: Path
    base: Path

    @property
    def directory(self) -> Path:
        return self.session.workspace

    def build(self, *before: str | Path, output: Path, recipe: Path | None = None) -> Finished:
        """Run `warmstart build` on the host. `before` replaces `-m warmstart` in the command."""
        recipe = recipe or write_recipe(self.directory / "recipe.yaml", self.base, IMAGE, warmup=[STATE])
        command = [sys.executable, *(before or ("-m", "warmstart")), "--cache-dir", self.cache, "build", recipe]
        command += ["--runtime-endpoint", self.runtime.endpoint, "-o", f"oci:{output}"]
        environment = [f"PYTHONPATH={REPOSITORY}", f"WARMSTART_TMPDIR={self.directory}"]
        return self.session.run(["env", *environment, *command], timeout_s=BUILD_S, check=False)

    def list_content(self) -> tuple[set[str], ...]:
        """List the containers, pods and images in CRI-O."""
        containers = self.runtime.runtime.ListContainers(cri.ListContainersRequest()).containers
        pods = self.runtime.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
        images = self.runtime.images.ListImages(cri.ListImagesRequest()).images
        return {item.id for item in containers}, {item.id for item in pods}, {item.id for item in images}

    def read_last_addresses(self) -> list[str]:
        """Read the files in which CRI-O's network records its last addresses of pods."""
        return [path.read_text() for path in self.directory.glob("host/addresses/*/last_reserved_ip*")]


@pytest.fixture(scope="module")
def host(open_node, cache, base_archive) -> Iterator[Host]:
    binds = [Bind(str(path)) for path in {*find_python(), REPOSITORY, STRIKE.parent, cache, base_archive}]
    with open_node(*binds) as session, run_crio(session, "host", subnet="10.66.0.0/24") as crio:
        # As on a real host, the other tools of the host use the same directories.
        script = f"mkdir -p {RUNROOT} && mount --bind {crio.state}/runroot {RUNROOT}"
        session.run(["sh", "-c", script], timeout_s=60)
        copy_image(session, f"oci:{PAUSE_LAYOUT}", f"{crio.store}{PAUSE_IMAGE}")
        with CriEngine(crio.endpoint, proc=session.proc, network=session.network, scratch=crio.state) as runtime:
            yield Host(session, runtime, cache, base_archive)


def find_python() -> set[Path]:
    """Return the paths of the running Python. All of /usr would hide the host's own tools."""
    if sys.base_prefix != "/usr":
        return {Path(sys.prefix), Path(sys.base_prefix)}
    return {Path(sys.prefix), Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))}


def test_the_image_is_built_there_and_nothing_is_left(host):
    before = host.list_content()
    addresses = host.read_last_addresses()
    done = host.build(output=host.directory / "out")
    assert done.returncode == 0, done.stderr
    assert host.read_last_addresses() != addresses
    assert read_provenance(read_image(host.directory / "out").manifest.annotations) is not None
    assert host.list_content() == before


def make_service(base: Path) -> dict[str, object]:
    """Return a service called `other` that is ready after a moment."""
    container = {"image": f"oci-archive:{base}", "ports": [{"containerPort": PORT}], "readinessProbe": READY}
    return {"name": "other", "container": {**container, "env": [{"name": "START_MS", "value": "700"}]}}


@pytest.mark.skipif(not (IMAGES / "python.tar").exists(), reason="make images")
def test_services_and_volumes_are_there_too(host):
    document = make_document(
        IMAGE,
        begin=f"from urllib.request import urlopen; assert urlopen('http://other:{PORT}/state').status == 200",
        container={"volumeMounts": [{"name": "fast", "mountPath": "/fast"}]},
        volumes=[{"name": "fast", "emptyDir": {"medium": "Memory"}}],
        build={"services": [make_service(host.base)]},
        warmup=[{"httpGet": {"port": PORT, "path": path_of("open('/fast/written', 'w').write('x')")}}],
        restore=["runtime", "self"],
    )
    recipe = host.directory / "beside.yaml"
    recipe.write_text(json.dumps(document))
    before = host.list_content()
    done = host.build(recipe=recipe, output=host.directory / "beside")
    assert done.returncode == 0, done.stderr
    assert "the volume fast is on the disk during the build" in done.stderr
    assert host.list_content() == before


@pytest.mark.parametrize(
    ("step", "delay_s"), [("start", 0.03), ("start", 0.06), ("start", 0.1), ("warm up", 0.1), ("checkpoint", 0.1)]
)
def test_an_interrupted_build_leaves_nothing_there(host, step, delay_s):
    before = host.list_content()
    done = host.build(STRIKE, "SIGTERM", step, str(delay_s), "warmstart-", output=host.directory / "struck")
    assert done.returncode == TERMINATED, done.stderr
    assert host.list_content() == before
    assert not (host.directory / "struck").exists()


@pytest.mark.parametrize("moment", ["services:other", "warm up"])
def test_an_interrupted_build_leaves_no_service_there(host, moment):
    block = {"services": [make_service(host.base)]}
    recipe = write_recipe(host.directory / "service.yaml", host.base, IMAGE, build=block, warmup=[STATE])
    before = host.list_content()
    done = host.build(STRIKE, "SIGTERM", moment, "0.3", "warmstart-", recipe=recipe, output=host.directory / "struck")
    assert done.returncode == TERMINATED, done.stderr
    assert host.list_content() == before


def test_where_nothing_listens_it_says_so(base_archive, cache, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", base_archive, IMAGE)
    command = [sys.executable, "-m", "warmstart", "--cache-dir", cache, "build", recipe, "-o", f"oci:{tmp_path}/out"]
    done = subprocess.run(
        [*command, "--runtime-endpoint", f"unix://{tmp_path}/none.sock"], capture_output=True, text=True, check=False
    )
    assert done.returncode == EngineError.exit_code
    assert "does not answer" in done.stderr
    assert "none.sock" in done.stderr
