"""An image built from a registry and pushed to it: its contents, and its starts on other nodes."""

from __future__ import annotations

import json
import platform
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
import zstandard
from support.builds import STATE, PrivateRegistry, build, get, read_state, write_recipe

from warmstart import __version__
from warmstart.build.container import SUBNET
from warmstart.build.context import BuildOptions
from warmstart.build.result import BuildResult
from warmstart.core.progress import Progress
from warmstart.engine.cri import CriEngine
from warmstart.engine.local import LocalEngine, start_engine
from warmstart.image.annotations import BASE_DIGEST, BASE_NAME, CREATED, read_provenance
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.image.layout import Image, open_blob, read_image
from warmstart.image.manifest import find_host_platform
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.selfrestore.pack import MEMORY
from warmstart.image.skopeo import SkopeoAccess, copy_image
from warmstart.node.crio import PAUSE_IMAGE, run_crio
from warmstart.node.session import Session
from warmstart.node.tree import PAUSE_LAYOUT
from warmstart.probe.readiness import first_probe, wait_first_success
from warmstart.recipe.load import load_recipe

pytestmark = pytest.mark.node

WARMUPS = 5
FILL_MB = 32
OTHER_SUBNET = "10.77.0.0/24"


@dataclass(frozen=True)
class Pushed:
    recipe: Path
    built: BuildResult
    steps: Progress

    @property
    def container(self):
        return load_recipe(self.recipe).container


@pytest.fixture(scope="module")
def pushed(pushed_base, private_registry, cache, tmp_path_factory) -> Pushed:
    recipe = write_recipe(
        tmp_path_factory.mktemp("pushed") / "recipe.yaml",
        pushed_base,
        private_registry.name("tests/warm:1"),
        {"env": [{"name": "FILL_MB", "value": str(FILL_MB)}]},
        warmup=[{**STATE, "repeat": WARMUPS}],
        memory={"mapped": "all"},
    )
    options = BuildOptions(cache, access=RegistryAccess((private_registry.host,), private_registry.auth_file))
    built, steps = build(recipe, options)
    return Pushed(recipe, built, steps)


def pull(session: Session, registry: PrivateRegistry, name: str, destination: str) -> str:
    auth_file = session.workspace / "auth.json"
    auth_file.write_text(registry.auth_file.read_text())
    return copy_image(session, f"docker://{name}", destination, access=SkopeoAccess(auth_file, plain_http=True))


@contextmanager
def engine_with(session: Session, registry: PrivateRegistry, image: str) -> Iterator[LocalEngine]:
    """Return a CRI-O with an empty store, after pulling only this image from the registry."""
    with start_engine(session, "other", subnet=OTHER_SUBNET) as engine:
        pull(session, registry, image, f"containers-storage:[overlay@{engine.root}+{engine.runroot}]{image}")
        yield engine


@pytest.fixture(scope="module")
def layout(pushed, private_registry, open_node, tmp_path_factory) -> Path:
    """Return a layout with the image from the registry."""
    copy = tmp_path_factory.mktemp("layout") / "layout"
    with open_node() as session:
        pull(session, private_registry, pushed.built.name, f"oci:{session.workspace}/pulled")
        shutil.move(session.workspace / "pulled", copy)
    return copy


@pytest.fixture(scope="module")
def image(layout) -> Image:
    return read_image(layout)


# On a node that has never seen the base image


def test_another_node_restores_it(pushed, private_registry, open_node):
    states, addresses = [], []
    with open_node() as session, engine_with(session, private_registry, pushed.built.name) as engine:
        for number in range(2):
            with engine.cri.start(pushed.container, pushed.built.name, f"pod-{number}") as running:
                assert running.restored
                states.append(read_state(running))
                assert get(running, "/check")[0] == 200
                assert get(running, "/ready")[0] == 200
                addresses.append(running.address)
                process = session.proc / str(running.pid)
                assert_root_is_clean(process / "root")
                assert count_private_kb(process) < FILL_MB << 9, "the memory was copied, not mapped"

    # Each restored server goes on from the same moment, and none knows of the other.
    assert states[0] == states[1]
    # The warm-up's requests, at least one probe of each kind, and the one that asked.
    assert states[0]["requests"] >= WARMUPS + 3
    seen_before = {restore.address for restore in pushed.built.restores}
    assert len({*addresses, *seen_before}) == 4
    # The first container of a build has the first address of its network.
    assert str(next(ip_network(SUBNET).hosts()) + 1) not in {*addresses, *seen_before}


def count_private_kb(process: Path) -> int:
    lines = (process / "smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Anonymous:")))


def assert_root_is_clean(root: Path) -> None:
    """Check that the application sees its own files, but not the checkpoint in the same image."""
    names = {path.name for path in root.iterdir()}
    assert {"server", "data"} <= names
    assert not [name for name in names if "checkpoint" in name or name.endswith((".dump", ".files", ".mounts", ".tar"))]
    # What the memory is mapped from has to stay.
    assert names <= {"server", "data", ".warmstart", "dev", "etc", "proc", "run", "sys", "var"}


def test_where_restore_is_off_it_starts_cold(pushed, private_registry, open_node):
    """If CRI-O may not restore, the same image starts like any other."""
    with open_node() as session, run_crio(session, "cold", subnet=OTHER_SUBNET, restore=False) as crio:
        copy_image(session, f"oci:{PAUSE_LAYOUT}", f"{crio.store}{PAUSE_IMAGE}")
        pull(session, private_registry, pushed.built.name, f"{crio.store}{pushed.built.name}")
        scratch = crio.state / "pods"
        with (
            CriEngine(crio.endpoint, proc=session.proc, network=session.network, scratch=scratch) as engine,
            engine.start(pushed.container, pushed.built.name, "cold") as running,
        ):
            wait_first_success(running, first_probe(pushed.container), limit_s=60)
            assert not running.restored
            first = read_state(running)
            root = session.proc / str(running.pid) / "root"
            assert (root / "checkpoint").is_dir(), "a cold start is of the image as it is"
    assert first["requests"] < WARMUPS


# What is in the image


def test_the_registry_has_what_was_verified(pushed, image, private_registry):
    assert (
        private_registry.read(pushed.built.name).digest == pushed.built.image.manifest.digest == image.manifest.digest
    )
    assert pushed.built.destination == f"docker://{pushed.built.name}"


def test_the_base_layers_are_the_base_images_own_blobs(pushed_base, image, private_registry):
    base = private_registry.read(pushed_base)
    below = image.manifest.layers[: len(base.layers)]
    assert [layer.digest for layer in below] == [layer.digest for layer in base.layers]
    assert image.manifest.annotations[BASE_NAME] == pushed_base
    assert image.manifest.annotations[BASE_DIGEST] == base.digest
    added = image.manifest.layers[len(base.layers) :]
    assert added
    assert all(layer.media_type.endswith("tar+zstd") for layer in added)


def test_annotations_tell_where_it_comes_from(pushed, image):
    annotations = image.manifest.annotations
    assert annotations[CHECKPOINT_NAME] == "server"
    assert annotations[CREATED].startswith("20")
    provenance = read_provenance(annotations)
    assert provenance is not None
    assert provenance == pushed.built.provenance
    assert provenance.version == __version__
    assert provenance.kernel == platform.release()
    assert provenance.architecture == find_host_platform().architecture
    assert provenance.runtime.startswith("cri-o 1.")
    assert provenance.criu.startswith("4.")
    assert json.loads(provenance.recipe)["name"] == "server"


def test_config_is_the_base_images(image):
    config = image.config
    assert config.entrypoint == ("/server",)
    assert config.cmd == ("of-the-image",)
    assert ("FROM_IMAGE", "yes") in config.env
    assert config.labels["made.by"] == "tests"


def test_no_log_of_the_build_is_in_it(image, layout):
    names = [name for names in list_layers(image, layout) for name in names]
    assert "checkpoint/inventory.img" in names
    assert "deleted.files" in names
    assert not [name for name in names if name.endswith((".log", "LogPath", "stats-dump"))]


def test_memory_is_in_a_layer_of_its_own_and_nowhere_else(pushed, image, layout):
    assert FILL_MB << 20 < pushed.built.dump.pages_bytes < (FILL_MB + 4) << 20
    *_, memory, checkpoint = list_layers(image, layout)
    assert [name for name in memory if not name.endswith("warmstart")] == [MEMORY]
    pages_bytes = sum(size for name, size in checkpoint.items() if "/pages-" in name)
    assert pages_bytes < 1 << 20
    assert memory[MEMORY] + pages_bytes < (FILL_MB + 4) << 20


def list_layers(image: Image, layout: Path) -> Iterator[dict[str, int]]:
    """Return the names and sizes (in bytes) of the files in each layer that the build added."""
    for layer in image.manifest.layers:
        if layer.media_type.endswith("+zstd"):
            with (
                open_blob(layout, layer) as blob,
                zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True) as plain,
                tarfile.open(fileobj=plain, mode="r|") as tar,
            ):
                yield {member.name.removeprefix("./"): member.size for member in tar}
