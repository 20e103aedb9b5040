"""The services and init containers of a recipe: fetch their images, and run them on the node.

They run on a CRI-O of their own, so that the one that restores knows no image but the one that it restores; both have
the node's network. A build on the host's CRI-O runs them there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from warmstart.build.base import BaseImage, fetch_image, find_source, share_layers
from warmstart.build.beside import ALONE, SUBNET, Beside, FetchedInit, RunningService, naming
from warmstart.build.container import import_image
from warmstart.build.context import BuildContext
from warmstart.core.errors import AppError, WarmstartError
from warmstart.core.workspace import open_workspace
from warmstart.engine.cri import CriContainer, CriPod
from warmstart.engine.cri_messages import Host
from warmstart.engine.local import LocalEngine, find_binds, start_engine
from warmstart.node.keeper import Bind
from warmstart.node.session import enter
from warmstart.node.tree import tree_path
from warmstart.probe.diagnosis import describe_end, read_log_end
from warmstart.probe.ports import await_ports
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success
from warmstart.recipe.model import Container, InitContainer, Mount, Recipe, Service, VolumeKind

# A service gets as long as its probes allow, and not less than this.
READY_S = 120.0
# Time between attempts of a probe, which may run a program in the service.
ATTEMPT_S = 0.2


@contextlib.contextmanager
def open_companions(context: BuildContext) -> Iterator[Companions]:
    """Fetch the images of the recipe's services and init containers, and keep them for the length of a `with` block.

    Raises:
        ImageError: an image is not there, is broken, or is of another platform; the error names the service.
        RegistryError: credentials cannot be read.
    """
    images: dict[str, BaseImage] = {}
    with contextlib.ExitStack() as ended:
        for one in context.recipe.companions:
            if one.container.image not in images:
                images[one.container.image] = _fetch(context, one, len(images))
        stores = [store for image in images.values() for store in ended.enter_context(share_layers(context, image))]
        yield Companions(context, images, tuple(dict.fromkeys(stores)), ended)


class Companions:
    """The services and init containers of a recipe, with their images; use `open_companions`."""

    def __init__(
        self,
        context: BuildContext,
        images: Mapping[str, BaseImage],
        stores: Sequence[Path],
        ended: contextlib.ExitStack,
    ) -> None:
        self._context = context
        self._images = images
        self._stores = stores
        self._ended = ended
        self._own: LocalEngine | None = None
        self._own_names: Mapping[str, str] = {}

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the manifests of their images, each image once."""
        return tuple(image.digest for image in self._images.values())

    @property
    def images(self) -> Mapping[str, BaseImage]:
        """The images, by their names in the recipe."""
        return self._images

    @contextlib.contextmanager
    def run(self, host: LocalEngine | None = None) -> Iterator[Beside]:
        """Run new services, and the init containers after them, for the length of a `with` block.

        They have another address each time.

        Args:
            host: the host's own engine, if the container runs there.

        Raises:
            ServiceError: a service was not ready, or an init container failed; with the end of its log.
            EngineError: the runtime refused.
        """
        if not self._images:
            yield ALONE
            return
        with contextlib.ExitStack() as ended:
            with self._context.progress.step("services"):
                if host is None:
                    engine, names = self._open_own()
                else:
                    engine, names = host, self._import(host, ended)
                beside = self._start(engine, names, ended)
            yield beside

    def _open_own(self) -> tuple[LocalEngine, Mapping[str, str]]:
        """Return an engine of our own that has the images, the same each time."""
        if self._own is None:
            opener = start_engine(self._context.session, "services", subnet=SUBNET, restore=False, stores=self._stores)
            engine = self._ended.enter_context(opener)
            self._own_names = self._import(engine, self._ended)
            self._own = engine
        return self._own, self._own_names

    def _import(self, engine: LocalEngine, ended: contextlib.ExitStack) -> dict[str, str]:
        """Import the images, and return their names in the engine."""
        return {
            image: import_image(self._context, engine, fetched.layout, ended) for image, fetched in self._images.items()
        }

    def _start(self, engine: LocalEngine, names: Mapping[str, str], ended: contextlib.ExitStack) -> Beside:
        recipe, note = self._context.recipe, self._context.progress.note
        # All addresses are known before the first service starts.
        pods = []
        for service in recipe.services:
            with naming(f"the service {service.name} did not start:"):
                pods.append(ended.enter_context(_open_pod(engine, service)))
        hosts = tuple(Host(pod.address, list_names(one)) for one, (pod, _) in zip(recipe.services, pods, strict=True))
        beside = Beside(engine, hosts)
        for service, (pod, volumes) in zip(recipe.services, pods, strict=True):
            note(service.name)
            with naming(f"the service {service.name} did not start:"):
                image = names[service.container.image]
                running = pod.start(service.container, image, hosts=hosts, volumes=volumes)
                await_service(running, service.container)
            beside.check()
            beside = replace(beside, services=(*beside.services, RunningService(service.name, running)))
        init = [FetchedInit(one, names[one.container.image]) for one in recipe.init]
        with engine.cri.open_volumes() as volumes_of_init:
            for one in init:
                note(one.init.name)
                beside.run_init(one, volumes_of_init)
            used = set(volumes_of_init.list_used())
        sharing = find_sharing(recipe)
        each = (one for one in init if one.init in sharing and used & _list_volumes(one.init.container))
        return replace(beside, init=tuple(each))


@contextlib.contextmanager
def _open_pod(engine: LocalEngine, service: Service) -> Iterator[tuple[CriPod, tuple[Mount, ...]]]:
    """Open the pod of a service, with the mounts of its volumes."""
    privileged = service.container.security_context.privileged
    with (
        engine.cri.open_volumes() as volumes,
        engine.cri.open_pod(service.name, privileged=privileged) as pod,
    ):
        yield pod, volumes.mount(service.container)


def list_names(service: Service) -> tuple[str, ...]:
    """Return the names of a service, with the short forms of a name in a cluster: NAME.SPACE and NAME.SPACE.svc."""
    names = [service.name]
    for alias in service.aliases:
        words = alias.split(".")
        if len(words) > 2 and words[2] == "svc":
            names += [".".join(words[:2]), ".".join(words[:3])]
        names.append(alias)
    return tuple(dict.fromkeys(names))


def find_sharing(recipe: Recipe) -> list[InitContainer]:
    """Find the init containers that share a volume with the container, perhaps by way of another one.

    In Kubernetes each pod runs all of its init containers. A build runs them once, and only those again for each pod
    that leave something on such a volume: the others change the services, which the pods share.
    """
    shared, found = _list_volumes(recipe.container), []
    pending = list(recipe.init)
    while sharing := [init for init in pending if shared & _list_volumes(init.container)]:
        found += sharing
        pending = [init for init in pending if init not in sharing]
        shared = shared.union(*(_list_volumes(init.container) for init in sharing))
    return found


def _list_volumes(container: Container) -> set[str]:
    """Return the names of the volumes that a container could leave files on."""
    return {each.volume.name for each in container.volume_mounts if each.volume.kind is not VolumeKind.FILES}


def await_service(running: CriContainer, container: Container) -> None:
    """Wait until a service is ready, as its probe and its ports say.

    Raises:
        AppError: it ended, or is not ready in time.
    """
    limit_s = max(READY_S, find_limit_s(container))
    wait_first_success(running, first_probe(container), limit_s=limit_s, interval_s=ATTEMPT_S)
    await_ports(running, container)
    if (state := running.state()).exited:
        raise AppError(f"it ended after it was ready: {describe_end(state)}", details=read_log_end(running))


def _fetch(context: BuildContext, one: Service | InitContainer, number: int) -> BaseImage:
    """Fetch the image of a service or init container, in a node of its own if the build's cannot see it."""
    layout, step = context.workspace / f"companion-{number}", f"pull {one.name}"
    try:
        source = find_source(context.recipe, one.container)
        binds = find_binds(source)
        if not binds:
            return fetch_image(context, source, layout, step)
        layout.mkdir()
        binds.append(Bind(str(layout), writable=True))
        tree = tree_path(context.options.cache)
        with open_workspace("pull") as workspace, enter(tree, workspace, binds=binds) as session:
            return fetch_image(replace(context, session=session), source, layout, step)
    except WarmstartError as error:
        error.brief = f"cannot fetch the image of {one.name}: {error.brief}"
        error.args = (error.brief,)
        raise
