"""The pod of a build for an image that restores itself: the launcher starts the application, and dumps it.

Nobody looks into the node. An init container gets the launcher's programs through the API server, into a volume that
the application cannot see, and the launcher writes out the dump and the changed files when it has stopped the
application. The launcher needs privileges that the application does not get; launcher/README.md lists them.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from warmstart.build.container import refuse_root
from warmstart.build.launched import (
    LOG_LINES,
    START_S,
    LaunchedTarget,
    check_dumped,
    find_working_dir,
    list_capabilities,
    list_options,
)
from warmstart.core.cpu import find_features
from warmstart.core.disk_space import reporting_full_disk
from warmstart.core.errors import AppError, CheckpointError, ClusterError
from warmstart.dump.archive.archive import DEFAULT_LIMITS
from warmstart.engine.cluster import KubernetesContainer
from warmstart.image.manifest import Config
from warmstart.image.selfrestore.pack import (
    BUILD_LAUNCHER,
    BUILD_ROOT,
    DIRECTORY,
    LAUNCHER,
    Identity,
    find_run,
    parse_manifest,
)
from warmstart.kube.client import Cluster, Head
from warmstart.kube.pods import Pod
from warmstart.node.launcher import LauncherPrograms
from warmstart.pods.build_pod import BuildPod
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success, wait_ready
from warmstart.recipe.model import Container, Recipe
from warmstart.recipe.pods import Block, mapping_at

#: The name of the init container and of its volume.
NAME = "warmstart-launcher"
_HOME = f"/{NAME}"
_PROGRAMS, _STATE, _READY = f"{_HOME}/programs", f"{_HOME}/state", f"{_HOME}/ready"
_AGENTS = f"{_PROGRAMS}/hooks"
# With an fsGroup, the volume would give its group to everything in it.
_AWAIT = f"""\
set -e
chmod g-s {_HOME}
umask 022
mkdir {_STATE} {_PROGRAMS} {_PROGRAMS}/state {_PROGRAMS}/proc {_PROGRAMS}{BUILD_ROOT}
chmod 700 {_STATE}
until [ -e {_READY} ]; do sleep 0.1; done
"""
COPY_S = 120.0
CALL_S = 30.0
SILENCE_S = 60.0
# Useless in a pod that is not restarted. The kubelet would go on asking while the application does its hooks and is
# dumped: each answer may open connections.
_DROPPED = ("lifecycle", "livenessProbe", "startupProbe", "readinessProbe", "args")
# A probe goes through the API server.
_PROBE_S = 0.25


def wrap_spec(made: BuildPod, recipe: Recipe, config: Config, helper_image: str) -> BuildPod:
    """Return a build's pod with the launcher as its command.

    Args:
        made: the pod of the recipe.
        recipe: the recipe.
        config: config of the base image.
        helper_image: image of the init container, with `sh`, `chmod`, `mkdir`, `sleep`, `head` and `cat`.
    """
    (container,) = made.spec["containers"]
    wrapped = {key: value for key, value in container.items() if key not in _DROPPED}
    options = [_escape(word) for word in list_options(recipe.container, config)]
    wrapped["command"] = [LAUNCHER, "build", *options, "--", *_list_command(recipe, config)]
    wrapped["workingDir"] = "/"
    wrapped["securityContext"] = {
        **mapping_at(container, "securityContext"),
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "allowPrivilegeEscalation": True,
        "capabilities": {"add": list(list_capabilities(recipe.container)), "drop": ["ALL"]},
        "seccompProfile": {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    }
    wrapped["volumeMounts"] = [
        *container.get("volumeMounts", []),
        {"name": NAME, "mountPath": f"/{DIRECTORY}", "subPath": "programs", "readOnly": True},
        {"name": NAME, "mountPath": f"/{DIRECTORY}/state", "subPath": "state"},
    ]
    spec = {
        **made.spec,
        "initContainers": [_make_init(helper_image), *made.spec.get("initContainers", [])],
        "containers": [wrapped],
        "volumes": [*made.spec.get("volumes", []), {"name": NAME, "emptyDir": {}}],
    }
    return replace(made, spec=spec)


def _list_command(recipe: Recipe, config: Config) -> list[str]:
    """Return the application's command, with the references to variables as written in the recipe."""
    find_run(recipe.container, config)
    block = json.loads(recipe.document)["container"]
    own = block.get("command") or [_escape(word) for word in config.entrypoint]
    return [*own, *(block.get("args") or ([] if block.get("command") else [_escape(word) for word in config.cmd]))]


def _escape(word: str) -> str:
    """Return a word that the kubelet reads as it is."""
    return word.replace("$", "$$")


def _make_init(image: str) -> Block:
    return {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", _AWAIT],
        "securityContext": {
            "runAsUser": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": NAME, "mountPath": _HOME}],
    }


@dataclass
class Delivery:
    """Gives the launcher's programs to the init container of a pod, once it runs.

    Attributes:
        cluster: the cluster.
        programs: the launcher and its CRIU.
        agents: files of the agents for hooks, by their names in the directory of the hooks.
        cpu_features: of the pod's node, as in `WarmState`; empty before.
    """

    cluster: Cluster
    programs: LauncherPrograms
    agents: Mapping[str, Path] = field(default_factory=dict)
    cpu_features: tuple[str, ...] = ()
    _is_done: bool = field(default=False, init=False)

    def __call__(self, pod: Pod) -> None:
        """Do it if the pod is that far.

        Raises:
            ClusterError: a command failed, most likely because the image lacks a program.
        """
        if self._is_done or not any(one.name == NAME and one.running for one in pod.init_containers):
            return
        self.cpu_features = find_features(self._run(pod, ["cat", "/proc/cpuinfo"]))
        for program in (self.programs.launcher, self.programs.criu):
            self._copy(pod, program, f"{_PROGRAMS}/{program.name}")
        for directory in sorted({str(PurePosixPath(_AGENTS, name).parent) for name in self.agents}):
            self._run(pod, ["mkdir", "-p", "-m", "755", directory])
        for name, file in sorted(self.agents.items()):
            self._copy(pod, file, f"{_AGENTS}/{name}")
        self._run(pod, ["sh", "-c", f": > {_READY}"])
        self._is_done = True

    def _copy(self, pod: Pod, file: Path, path: str) -> None:
        content = file.read_bytes()
        self._run(pod, ["sh", "-c", f"head -c {len(content)} > {path} && chmod 755 {path}"], content)

    def _run(self, pod: Pod, command: Sequence[str], stdin: bytes | None = None) -> str:
        said = Head()
        try:
            end = self.cluster.exec(pod, NAME, command, write=said.write, stdin=stdin, timeout_s=COPY_S)
        except TimeoutError as late:
            raise ClusterError(f"the launcher did not arrive in the pod {pod.name} within {COPY_S:g} s") from late
        if end.exit_code:
            brief = f"{command[0]} failed in the init container {NAME}, with exit code {end.exit_code}"
            hint = "its image must have sh, chmod, mkdir, sleep, head and cat; name another one with --helper-image"
            raise ClusterError(brief, details=end.stderr.splitlines()[-5:], hint=hint)
        return said.data.decode(errors="replace")


@dataclass(frozen=True)
class LaunchedPod(LaunchedTarget[KubernetesContainer]):
    """See `LaunchedTarget`; a pod.

    Attributes:
        container: its container.
        working_dir: working directory of its commands.
        identity: of the application.
    """

    container: KubernetesContainer
    working_dir: str
    identity: Identity

    def await_ready(self, container: Container, announced: Callable[[], bool]) -> float:
        """Wait as the kubelet would, and return the seconds since the container's start.

        Args:
            container: the recipe's container.
            announced: whether the application has asked for its checkpoint, which stands for its probes.

        Raises:
            AppError: the container ended, or was not ready in time.
        """
        started, probe = self.container.started_at, first_probe(container)
        limit_s = find_limit_s(container)
        first = wait_first_success(
            self, probe, limit_s=limit_s, interval_s=_PROBE_S, connect_s=math.inf, announced=announced
        )
        if not announced():
            wait_ready(self, container.startup_probe, container.readiness_probe, started=started)
        return first.at - started

    def fetch(self, file: Path) -> None:
        """Write the dump and the changed files to a new file; see `warmstart.image.selfrestore.unpack`.

        Raises:
            CheckpointError: the launcher could not read them, or they are too large.
            ClusterError: the connection broke.
        """
        running, done = self.container, 0
        with reporting_full_disk(file, "make room there"), file.open("xb") as out:

            def write(data: bytes) -> None:
                nonlocal done
                done += len(data)
                if done > DEFAULT_LIMITS.total_bytes:
                    raise CheckpointError(f"the dump has more than {DEFAULT_LIMITS.total_bytes} bytes")
                out.write(data)

            words = [BUILD_LAUNCHER, "pack"]
            try:
                end = running.cluster.exec(running.pod, running.name, words, write=write, silence_s=SILENCE_S)
            except TimeoutError as late:
                raise ClusterError(f"the pod {running.pod.name} sends no more of the dump") from late
        check_dumped(end.exit_code, end.stderr, "read the changed files")


def await_application(running: KubernetesContainer, recipe: Recipe, config: Config) -> LaunchedPod:
    """Wait until the launcher has started the application.

    Raises:
        AppError: the launcher could not start it, or it is root and must not be.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(CheckpointError, ClusterError, TimeoutError):
            result = running.exec([BUILD_LAUNCHER, "show"], CALL_S)
            if not result.exit_code:
                identity = parse_manifest(result.stdout)
                # For the kubelet, it is the launcher that runs, as root.
                refuse_root(recipe.container, is_root=identity.user == 0)
                return LaunchedPod(running, find_working_dir(recipe.container, config), identity)
        if running.state().exited:
            break
        time.sleep(0.2)
    raise AppError("the launcher could not start the application", details=running.log_tail(LOG_LINES))


@contextlib.contextmanager
def explaining_refusal(namespace: str) -> Iterator[None]:
    """Explain a namespace that does not admit the launcher's privileges."""
    try:
        yield
    except ClusterError as error:
        if "violates PodSecurity" in error.brief:
            raise PodSecurityError(namespace, error) from error
        raise


class PodSecurityError(ClusterError):
    """The namespace does not admit the pod of the launcher."""

    def __init__(self, namespace: str, refusal: ClusterError) -> None:
        brief = f"the namespace {namespace} does not admit the launcher's privileges: {refusal.brief}"
        hint = (
            f"build in a namespace with pod-security.kubernetes.io/enforce: privileged, or set `restore: [runtime]`;"
            f" kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged admits them"
        )
        super().__init__(brief, details=refusal.details, hint=hint)
