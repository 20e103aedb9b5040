"""A node: a container runtime and a kubelet in their own namespaces, as on a separate machine."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from support.cluster.authority import Authority, identify, make_kubeconfig
from support.cluster.network import API_ADDRESS, Place, bring_in
from support.cluster.part import Part, run_part
from support.containerd import CALL_S, make_pause_image, run_containerd

from warmstart.core.network import connect_in
from warmstart.image.skopeo import copy_image
from warmstart.node.crio import PAUSE_IMAGE, Crio, run_crio
from warmstart.node.session import Session
from warmstart.node.tree import PAUSE_LAYOUT

KUBELET_DIRECTORY = "/var/lib/kubelet"
# The kubelet would set these for the whole machine. The node sees files with the right values instead.
SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
# Guaranteed pods get a negative oom_score_adj. It requires CAP_SYS_RESOURCE, and root may lack it.
RUNC = """\
#!/bin/sh
for word; do
    [ "$last" != --bundle ] || sed -i 's/"oomScoreAdj": *-[0-9]*/"oomScoreAdj": 0/' "$word/config.json"
    last=$word
done
exec /usr/sbin/runc "$@"
"""
# These mounts exist only in the session. Huge pages are hidden: on a hybrid host, their controller is not in cgroup v1,
# and the kubelet would look for it there.
PREPARE_SCRIPT = """\
set -eu
cd {state}
mknod /dev/kmsg c 1 11
[ ! -d /sys/kernel/mm/hugepages ] || mount -t tmpfs none /sys/kernel/mm/hugepages
for name in {sysctls}; do
    mount --bind "sysctls/$name" "/proc/sys/$name"
done
mkdir -p {kubelet} /var/log/pods
mount --bind root {kubelet}
mount --bind logs /var/log/pods
rm /usr/bin/runc
install -m 755 runc /usr/bin/runc
"""


@dataclass(frozen=True)
class Node:
    """A node of a running cluster.

    Attributes:
        name: name in Kubernetes.
        session: session of the node.
        crio: container runtime, unless it is containerd.
        address: IP address in the cluster's network.
        kubelet: running kubelet.
    """

    name: str
    session: Session
    crio: Crio | None
    address: str
    kubelet: Part

    @property
    def kubelet_directory(self) -> Path:
        """Path of the node's /var/lib/kubelet on this machine. It contains the pods' volumes and `checkpoints`."""
        return self.session.workspace / "kubelet" / "root"

    def import_image(self, source: str, name: str, *files: Path) -> None:
        """Copy an image into the node's store, like a pull.

        CRI-O keeps only the name by which an image was last pulled, so use a single name for an image that is also
        pulled.

        Args:
            source: image as in containers-transports(5), such as `oci-archive:/tmp/base.tar`.
            name: image name in pods.
            files: files of this machine in `source`, which the node cannot see.
        """
        assert self.crio is not None, "only CRI-O's store is shared with skopeo"
        copies = self.session.workspace / "import"
        copies.mkdir()
        try:
            for file in files:
                copy = copies / file.name
                (shutil.copytree if file.is_dir() else shutil.copyfile)(file, copy)
                source = source.replace(str(file), str(copy))
            copy_image(self.session, source, self.crio.store + name)
        finally:
            shutil.rmtree(copies)

    def http_get(self, address: str, port: int, path: str, *, timeout_s: float = 5.0) -> tuple[int, str]:
        """Return the status and the body of the response of a pod at `address`."""
        connection = HTTPConnection(address, port, timeout=timeout_s)
        connection.sock = connect_in(self.session.network, (address, port), timeout_s)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


@contextlib.contextmanager
def run_node(
    session: Session,
    program: Path,
    name: str,
    place: Place,
    authority: Authority,
    registry: str,
    *,
    restore: bool,
    containerd: Path | None = None,
) -> Iterator[Node]:
    """Run a container runtime and a kubelet in a session that is connected to the cluster's network.

    Args:
        session: session that can see `program`.
        program: Kubernetes program.
        name: name of the node in Kubernetes.
        place: addresses of the node.
        authority: certificate authority of the cluster.
        registry: HOST:PORT of a registry on this machine.
        restore: whether its CRI-O supports checkpoints.
        containerd: program of containerd to run instead of CRI-O; the session can see its directory.
    """
    state = session.workspace / "kubelet"
    with contextlib.ExitStack() as running:
        running.enter_context(bring_in(session, int(registry.rpartition(":")[2])))
        _allow_plain_http(session, registry)
        _write_files(state, name, place, authority)
        words = {"state": state, "kubelet": KUBELET_DIRECTORY, "sysctls": " ".join(SYSCTLS)}
        session.run(["sh", "-c", PREPARE_SCRIPT.format(**words)], timeout_s=60)
        crio = None
        if containerd:
            endpoint = running.enter_context(_run_containerd(session, containerd, place, registry))
        else:
            crio = running.enter_context(
                run_crio(session, "crio", subnet=place.subnet, restore=restore, host_network=False)
            )
            copy_image(session, f"oci:{PAUSE_LAYOUT}", crio.store + PAUSE_IMAGE)
            endpoint = crio.endpoint
        _write_configuration(state, endpoint)
        arguments = [f"--config={state}/kubelet.json", f"--kubeconfig={state}/kubeconfig"]
        arguments += [f"--hostname-override={name}", f"--node-ip={place.address}", f"--root-dir={KUBELET_DIRECTORY}"]
        kubelet = running.enter_context(run_part(session, "kubelet", [str(program), "kubelet", *arguments], state))
        yield Node(name, session, crio, place.address, kubelet)


@contextlib.contextmanager
def _run_containerd(session: Session, program: Path, place: Place, registry: str) -> Iterator[str]:
    """Run containerd, which pulls its pause image like any other, and yield its endpoint."""
    state, pause = session.workspace / "containerd", f"{registry}/tests/pause:1"
    archive = make_pause_image(session, state / "pause", pause)
    command = ["skopeo", "copy", "--dest-tls-verify=false", f"oci-archive:{archive}", f"docker://{pause}"]
    session.run(command, timeout_s=CALL_S)
    with run_containerd(session, program, state, subnet=place.subnet, pause=pause) as socket:
        yield f"unix://{socket}"


def _allow_plain_http(session: Session, registry: str) -> None:
    """Allow plain HTTP, see containers-registries.conf(5). The setting in CRI-O's own configuration has no effect."""
    path = session.root / "etc/containers/registries.conf.d/cluster.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')


def _write_files(state: Path, name: str, place: Place, authority: Authority) -> None:
    for directory in ("root", "logs", "sysctls"):
        (state / directory).mkdir(parents=True)
    for sysctl, value in SYSCTLS.items():
        path = state / "sysctls" / sysctl
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    (state / "runc").write_text(RUNC)
    (state / "ca.crt").write_text(authority.certificate)
    authority.issue(name, addresses=[f"DNS:{name}", f"IP:{place.address}"]).write(state, "kubelet")
    identity = authority.issue(f"system:node:{name}", groups=["system:nodes"])
    kubeconfig = make_kubeconfig(f"https://{API_ADDRESS}", authority.certificate, identify(identity))
    (state / "kubeconfig").write_text(kubeconfig)


def _write_configuration(state: Path, endpoint: str) -> None:
    """Write the kubelet's configuration.

    Reference: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/.
    """
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": endpoint,
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True, "cacheTTL": "1s"},
            "x509": {"clientCAFile": f"{state}/ca.crt"},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "1s", "cacheUnauthorizedTTL": "1s"},
        },
        "tlsCertFile": f"{state}/kubelet.crt",
        "tlsPrivateKeyFile": f"{state}/kubelet.key",
        # Our own limit: a higher one requires CAP_SYS_RESOURCE, like a negative score.
        "maxOpenFiles": min(1_000_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        "oomScoreAdj": 0,
        # Disk and memory are this machine's. Do not evict pods because they are full.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    }
    (state / "kubelet.json").write_text(json.dumps(configuration, indent=1))
