"""Convert a recipe's container to CRI messages, and CRI log lines to text.

The mounts are those that the kubelet makes, with those of the container's volumes. A restored container must have the
mounts of its checkpoint: CRI-O refuses a restore if one is missing, and ignores additional ones.
API: k8s.io/cri-api, runtime/v1; log format: the kubelet's CRI logging design.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cri_api.v1 import api_pb2 as cri

from warmstart.engine.volumes import list_groups
from warmstart.recipe.model import Container, Mount, Resources, SecurityContext

NAMESPACE = "warmstart"
CPU_PERIOD_US = 100_000
MIN_QUOTA_US = 1000
MAX_SHARES = 262_144
KUBELET_FILES = ("/etc/hosts", "/dev/termination-log")
#: Each user may bind low ports, as under Docker and containerd by default.
SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0"}


def pod_config(name: str, scratch: Path, *, privileged: bool = False) -> cri.PodSandboxConfig:
    """Return the configuration of a pod, with its logs and mounted files in a new directory below `scratch`.

    Runtimes accept privileged containers only in a `privileged` pod, as the kubelet makes it.
    """
    uid = str(uuid.uuid4())
    directory = scratch / f"pod-{uid}"
    directory.mkdir(parents=True)
    namespaces = cri.NamespaceOption(network=cri.POD, pid=cri.CONTAINER, ipc=cri.POD)
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace=NAMESPACE),
        hostname=name,
        log_directory=str(directory),
        linux=cri.LinuxPodSandboxConfig(
            sysctls=SYSCTLS,
            security_context=cri.LinuxSandboxSecurityContext(namespace_options=namespaces, privileged=privileged),
        ),
    )


@dataclass(frozen=True)
class Host:
    """A line of /etc/hosts: an address and its names."""

    address: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "\t".join((self.address, *self.names))


LOCALHOST = (Host("127.0.0.1", ("localhost",)), Host("::1", ("localhost",)))


def container_config(
    container: Container,
    image: str,
    name: str,
    address: str,
    directory: Path,
    *,
    hosts: Sequence[Host] = (),
    volumes: Sequence[Mount] = (),
) -> cri.ContainerConfig:
    """Return the configuration of a container.

    Args:
        container: the recipe's container.
        image: name of its image.
        name: its name, and that of its pod.
        address: address of the pod.
        directory: that of `pod_config`.
        hosts: other hosts that it knows by name.
        volumes: mounts of its volumes; see `PodVolumes.mount`.
    """
    lines = (*LOCALHOST, Host(address, (name,)), *hosts)
    (directory / "hosts").write_text("".join(f"{line}\n" for line in lines))
    (directory / "termination-log").touch(mode=0o666)
    (directory / "termination-log").chmod(0o666)
    own = {mount.path for mount in volumes}
    mounts = [Mount(path, directory / Path(path).name) for path in KUBELET_FILES if path not in own]
    mounts += [*container.mounts, *volumes]
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image=image, user_specified_image=image),
        command=container.command,
        args=container.args,
        working_dir=container.working_dir,
        envs=[cri.KeyValue(key=key, value=value) for key, value in container.env],
        mounts=[
            cri.Mount(container_path=each.path, host_path=str(each.directory), readonly=each.read_only)
            for each in mounts
        ],
        log_path="container.log",
        linux=cri.LinuxContainerConfig(
            resources=_resources(container.resources),
            security_context=_security_context(container.security_context, list_groups(container)),
        ),
    )


def log_message(line: str) -> str:
    """Return the message of a CRI log line, `TIME STREAM TAG MESSAGE`."""
    return line.split(" ", 3)[3] if line.count(" ") >= 3 else line


def join_log(lines: Iterable[str]) -> list[str]:
    """Return the lines that a container wrote.

    CRI logs a line that was written in pieces as several; all but the last have the tag P.
    """
    joined: list[str] = []
    begun: dict[str, str] = {}
    for line in lines:
        stream, tag = [*line.split(" ", 3), "", "", ""][1:3]
        text = begun.pop(stream, "") + log_message(line)
        if tag.split(":")[0] == "P":
            begun[stream] = text
        else:
            joined.append(text)
    return [*joined, *begun.values()]


def _resources(resources: Resources) -> cri.LinuxContainerResources:
    message = cri.LinuxContainerResources()
    if resources.memory_limit_bytes is not None:
        message.memory_limit_in_bytes = resources.memory_limit_bytes
    if resources.cpu_limit_millis is not None:
        message.cpu_period = CPU_PERIOD_US
        # The kernel's minimum; the kubelet rounds up to it too.
        message.cpu_quota = max(MIN_QUOTA_US, resources.cpu_limit_millis * (CPU_PERIOD_US // 1000))
    shares = resources.cpu_request_millis or resources.cpu_limit_millis
    if shares is not None:
        # As the kubelet does: 1024 shares are one core, and the kernel accepts 2 to MAX_SHARES.
        message.cpu_shares = min(max(2, shares * 1024 // 1000), MAX_SHARES)
    return message


def _security_context(context: SecurityContext, groups: Sequence[int]) -> cri.LinuxContainerSecurityContext:
    message = cri.LinuxContainerSecurityContext(
        namespace_options=cri.NamespaceOption(network=cri.POD, pid=cri.CONTAINER, ipc=cri.POD),
        capabilities=cri.Capability(
            add_capabilities=context.capabilities_add, drop_capabilities=context.capabilities_drop
        ),
        privileged=context.privileged,
        readonly_rootfs=context.read_only_root_filesystem,
        no_new_privs=not context.allow_privilege_escalation,
        supplemental_groups=groups,
        seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault),
    )
    if context.unconfined:
        for profile in (message.seccomp, message.apparmor):
            profile.profile_type = cri.SecurityProfile.Unconfined
    if context.run_as_user is not None:
        message.run_as_user.value = context.run_as_user
    if context.run_as_group is not None:
        message.run_as_group.value = context.run_as_group
    return message
