"""Run a real Kubernetes cluster on this machine during a block.

Each node has its own namespaces, cgroup and tools, like a build, and leaves nothing behind, however it ends. The first
node also has the control plane. Several clusters can run at the same time.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
from support.cluster.authority import Authority, identify, make_kubeconfig
from support.cluster.control_plane import API_PORT, run_control_plane
from support.cluster.network import Place, bring_out, join_network, make_network
from support.cluster.node import Node, run_node
from support.cluster.part import run_part
from support.cluster.program import ensure_kubernetes

from warmstart.core import process
from warmstart.core.workspace import open_workspace
from warmstart.node.cache import Notify
from warmstart.node.keeper import Bind
from warmstart.node.session import Session, enter
from warmstart.node.tree import ensure_tree

CALL_S = 60.0
POLL_S = 0.1
# API groups of the kinds that are not in the core group.
APIS = {
    "deployments": "apis/apps/v1",
    "endpointslices": "apis/discovery.k8s.io/v1",
    "horizontalpodautoscalers": "apis/autoscaling/v2",
}
KUBECTL = """\
#!/bin/sh
exec {program} kubectl "$@"
"""


@dataclass(frozen=True)
class Parts:
    """The shared settings of a cluster's nodes and users.

    Attributes:
        tree: tools directory.
        program: Kubernetes program.
        authority: certificate authority of the cluster.
        registry: HOST:PORT of the cluster's registry.
        server: URL of the API server on this machine.
    """

    tree: Path
    program: Path
    authority: Authority
    registry: str
    server: str

    @property
    def binds(self) -> tuple[Bind, ...]:
        """Return the files of this machine that a node can see."""
        return (Bind(str(self.program)),)


class Cluster:
    """A running cluster.

    Attributes:
        registry: HOST:PORT of the registry, with plain HTTP; the same on the nodes and on this machine.
        authority: certificate authority of users and servers.
        files: directory for kubeconfigs and other files of users, removed at the end.
        kubeconfig: self-contained kubeconfig of a user with all permissions.
        bin: directory with kubectl.
        nodes: current nodes; the first one has the control plane.
    """

    def __init__(self, parts: Parts, files: Path) -> None:
        self._parts = parts
        self._made = 0
        self.registry = parts.registry
        self.authority = parts.authority
        self.files = files
        self.bin = files / "bin"
        self.nodes: list[Node] = []
        self.bin.mkdir(parents=True)
        kubectl = self.bin / "kubectl"
        kubectl.write_text(KUBECTL.format(program=parts.program))
        kubectl.chmod(0o755)
        identity = parts.authority.issue("administrator", groups=["system:masters"])
        self.kubeconfig = self._write_kubeconfig("administrator", identify(identity))
        self._administrator = requests.Session()
        self._administrator.trust_env = False
        self._administrator.verify = str(parts.authority.certificate_file)
        self._administrator.cert = tuple(map(str, identity.write(files, "administrator")))

    def kubectl(
        self, *words: str | Path, stdin: str | None = None, kubeconfig: Path | None = None, timeout_s: float = CALL_S
    ) -> str:
        """Run kubectl, and return its output.

        Raises:
            ProgramError: kubectl failed.
        """
        command = [self.bin / "kubectl", "--kubeconfig", kubeconfig or self.kubeconfig, *words]
        try:
            return process.run(command, stdin=stdin, timeout_s=timeout_s).stdout
        except process.ProgramError as error:
            error.add_note(error.stderr)
            raise

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply these objects."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def read(self, kind: str, name: str = "", *, namespace: str = "default", selector: str = "") -> dict[str, Any]:
        """Return an object, or without a name a list of objects.

        Tests poll with it. kubectl would take more of the processor than the cluster.

        Raises:
            HTTPError: there is no such object.
        """
        where = "" if kind == "nodes" else f"namespaces/{namespace}/"
        path = f"{APIS.get(kind, 'api/v1')}/{where}{kind}/{name}".rstrip("/")
        query = {"labelSelector": selector} if selector else {}
        answer = self._administrator.get(f"{self._parts.server}/{path}", params=query, timeout=CALL_S)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def delete_pods(self, **selectors: str) -> None:
        """Delete the pods that `labelSelector` and `fieldSelector` choose, and wait until they are gone.

        Raises:
            TimeoutError: one is still there.
        """
        pods, deadline = f"{self._parts.server}/api/v1/namespaces/default/pods", time.monotonic() + CALL_S
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 1}
        call = partial(self._administrator.request, url=pods, params=selectors, timeout=CALL_S)
        call("DELETE", json=options).raise_for_status()
        while left := [pod["metadata"]["name"] for pod in call("GET").json()["items"]]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not deleted: {left}")
            time.sleep(POLL_S)

    def write_kubeconfig(self, user: str, *, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig for a user. The user's permissions are those of RBAC."""
        return self._write_kubeconfig(user, identify(self._parts.authority.issue(user, groups=groups)))

    def write_account_kubeconfig(self, account: str, *, namespace: str = "default") -> Path:
        """Write a kubeconfig for an existing service account."""
        token = self.kubectl("create", "token", account, f"--namespace={namespace}").strip()
        return self._write_kubeconfig(f"{namespace}.{account}", {"token": token})

    def _write_kubeconfig(self, name: str, user: dict[str, str]) -> Path:
        path = self.files / f"{name.replace(':', '.')}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(make_kubeconfig(self._parts.server, self._parts.authority.certificate, user))
        return path

    @contextlib.contextmanager
    def add_node(self, *, restore: bool = True, containerd: Path | None = None) -> Iterator[Node]:
        """Run another node, without any images, until the end of the block.

        With `restore`, its CRI-O supports checkpoints. With `containerd`, it runs this program instead of CRI-O.
        """
        binds = (*self._parts.binds, *((Bind(str(containerd.parent)),) if containerd else ()))
        with (
            open_workspace("node") as workspace,
            enter(self._parts.tree, workspace, binds=binds) as session,
            self._run_node(session, restore, containerd) as node,
        ):
            yield node
        self.kubectl("delete", "node", node.name)

    def run_first_node(self, session: Session, *, restore: bool) -> contextlib.AbstractContextManager[Node]:
        """Run the node that also has the control plane."""
        return self._run_node(session, restore)

    @contextlib.contextmanager
    def _run_node(self, session: Session, restore: bool, containerd: Path | None = None) -> Iterator[Node]:
        self._made += 1
        place, name, parts = Place(self._made), f"node-{self._made}", self._parts
        if self.nodes:
            join_network(self.nodes[0].session, session, place)
        settings = {"restore": restore, "containerd": containerd}
        with run_node(session, parts.program, name, place, parts.authority, parts.registry, **settings) as node:
            self._wait_for_node(node)
            self.nodes.append(node)
            try:
                yield node
            finally:
                self.nodes.remove(node)

    def _wait_for_node(self, node: Node) -> None:
        """Wait until the node is ready, and has no taints."""
        try:
            for condition in ("create", "condition=Ready"):
                self.kubectl("wait", f"node/{node.name}", f"--for={condition}", f"--timeout={CALL_S:g}s")
        except process.ProgramError as error:
            error.add_note("\n".join(node.kubelet.read_log()))
            raise
        node.kubelet.wait_until(lambda: "taints" not in self.read("nodes", node.name)["spec"])


@contextlib.contextmanager
def open_cluster(cache: Path, *, nodes: int = 1, restore: bool = True, progress: Notify = print) -> Iterator[Cluster]:
    """Run a cluster for the length of a `with` block.

    Args:
        cache: cache directory of the tools and Kubernetes, which are created if they are missing (some minutes).
        nodes: number of nodes at the start.
        restore: whether their CRI-O supports checkpoints.
        progress: called with a line when a stage begins.

    Raises:
        HostError: a part could not be created, or did not start.
    """
    tree, program = ensure_tree(cache, progress), ensure_kubernetes(cache, progress)
    with contextlib.ExitStack() as running:
        workspace = running.enter_context(open_workspace("cluster"))
        session = running.enter_context(enter(tree, workspace, binds=[Bind(str(program))]))
        registry = running.enter_context(_run_registry(session))
        authority = Authority(session, workspace / "authority")
        make_network(session)
        running.enter_context(run_control_plane(session, program, authority, workspace / "control-plane"))
        port = running.enter_context(bring_out(session, Place(1).address, API_PORT))
        parts = Parts(tree, program, authority, registry, f"https://127.0.0.1:{port}")
        cluster = Cluster(parts, workspace / "files")
        running.enter_context(cluster.run_first_node(session, restore=restore))
        cluster.kubectl("wait", "serviceaccount/default", "--for=create", f"--timeout={CALL_S:g}s")
        for _ in range(nodes - 1):
            running.enter_context(cluster.add_node(restore=restore))
        yield cluster


@contextlib.contextmanager
def _run_registry(session: Session) -> Iterator[str]:
    """Run a registry in this machine's network, and yield its HOST:PORT."""
    home = session.workspace / "registry"
    home.mkdir()
    settings = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": f"{home}/data"}, "delete": {"enabled": True}},
        # Port 0: the kernel chooses a port, and the log shows it.
        "http": {"addr": "127.0.0.1:0", "secret": "cluster"},
    }
    (home / "config.yml").write_text(json.dumps(settings))
    command = ["docker-registry", "serve", f"{home}/config.yml"]
    with run_part(session, "registry", command, home, host_network=True) as part:
        found: list[str] = []

        def listens() -> bool:
            found.extend(re.findall(r"listening on (127\.0\.0\.1:\d+)", part.log_file.read_text()))
            return bool(found)

        part.wait_until(listens)
        yield found[0]
