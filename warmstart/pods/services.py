"""The services of a recipe in pods beside that of a build, in the cluster.

A pod's address is only known when it runs, and its names are given to other pods at their start. So the services start
in the order of the recipe: each finds those before it, and itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from warmstart.build.beside import Beside, RunningService, naming
from warmstart.build.context import BuildContext
from warmstart.build.services import READY_S, list_names
from warmstart.core.errors import ClusterError
from warmstart.engine.cluster import KubernetesContainer, make_build_pod, make_pod_name, start_pod
from warmstart.engine.cri_messages import Host
from warmstart.kube.client import Cluster
from warmstart.kube.refusal import RefusedError
from warmstart.pods.build_pod import make_service_spec
from warmstart.probe.ports import await_ports
from warmstart.probe.readiness import find_limit_s

LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
def run_services(context: BuildContext, cluster: Cluster, images: Mapping[str, str]) -> Iterator[Beside]:
    """Run the services of a recipe in the cluster's namespace, for the length of a `with` block.

    Args:
        context: of the build.
        cluster: the cluster.
        images: names of the images for the cluster, by those in the recipe.

    Raises:
        ServiceError: a service was not ready, with the end of its log.
        RefusedError: the user may not create its pod.
        ClusterError: its pod does not start.
    """
    beside = Beside()
    if not context.recipe.services:
        yield beside
        return
    with contextlib.ExitStack() as ended:
        with context.progress.step("services"):
            for index, service in enumerate(context.recipe.services):
                context.progress.note(service.name)
                with _naming(f"the service {service.name} did not start:"):
                    running = ended.enter_context(_start(context, cluster, index, images, beside))
                    running.await_ready(max(READY_S, find_limit_s(service.container)))
                    await_ports(running, service.container, forwarded=True)
                beside.check()
                host = Host(running.address, list_names(service))
                services = (*beside.services, RunningService(service.name, running))
                beside = replace(beside, hosts=(*beside.hosts, host), services=services)
        yield beside


@contextlib.contextmanager
def _start(
    context: BuildContext, cluster: Cluster, index: int, images: Mapping[str, str], beside: Beside
) -> Iterator[KubernetesContainer]:
    recipe = context.recipe
    service = recipe.services[index]
    hosts = (*beside.hosts, Host(LOOPBACK, list_names(service)))
    made = make_service_spec(recipe, index, make_pod_name(f"{recipe.name[:22]}-{service.name}"), images, hosts)
    with start_pod(cluster, make_build_pod(made.spec, made.name, cluster.namespace), made.secret) as running:
        yield running


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Put a name before the errors of a service, as `naming` does, also before those of its pod."""
    with naming(what):
        try:
            yield
        except RefusedError:
            raise
        except ClusterError as error:
            raise ClusterError(f"{what} {error.brief}", details=error.details, hint=error.hint) from error
