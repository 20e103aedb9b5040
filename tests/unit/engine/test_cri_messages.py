"""A container as CRI messages, and CRI's log lines."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cri_api.v1 import api_pb2 as cri

from warmstart.engine.cri_messages import container_config, log_message, pod_config
from warmstart.recipe.model import Container, Mount, Resources, SecurityContext


def make_config(tmp_path: Path, **fields: object) -> cri.ContainerConfig:
    return container_config(Container(image="base", **fields), "the-image", "app", "10.88.0.2", tmp_path)


def make_resources(tmp_path: Path, **fields: int) -> cri.LinuxContainerResources:
    return make_config(tmp_path, resources=Resources(**fields)).linux.resources


def make_security(tmp_path: Path, **fields: object) -> cri.LinuxContainerSecurityContext:
    return make_config(tmp_path, security_context=SecurityContext(**fields)).linux.security_context


# The pod


def test_each_pod_has_a_directory_and_a_uid_of_its_own(tmp_path):
    scratch = tmp_path / "not" / "yet"
    one, two = pod_config("app", scratch), pod_config("app", scratch)
    assert one.metadata.name == two.metadata.name == one.hostname == "app"
    assert one.metadata.uid != two.metadata.uid
    assert sorted(str(path) for path in scratch.iterdir()) == sorted([one.log_directory, two.log_directory])


def test_a_pod_has_namespaces_of_its_own(tmp_path):
    options = pod_config("app", tmp_path).linux.security_context.namespace_options
    assert (options.network, options.pid, options.ipc) == (cri.POD, cri.CONTAINER, cri.POD)


# The container


def test_what_is_run(tmp_path):
    config = make_config(
        tmp_path, command=("/bin/app",), args=("-v", "$x"), env=(("A", "1"), ("B", "")), working_dir="/srv"
    )
    assert config.metadata.name == "app"
    assert config.image.image == "the-image"
    assert (list(config.command), list(config.args), config.working_dir) == (["/bin/app"], ["-v", "$x"], "/srv")
    assert [(pair.key, pair.value) for pair in config.envs] == [("A", "1"), ("B", "")]


def test_what_is_not_said_is_the_images(tmp_path):
    config = make_config(tmp_path)
    assert (list(config.command), list(config.args), config.working_dir, list(config.envs)) == ([], [], "", [])


def test_the_mounts_are_those_that_the_kubelet_makes(tmp_path):
    config = make_config(tmp_path)
    mounts = {mount.container_path: Path(mount.host_path) for mount in config.mounts}
    assert list(mounts) == ["/etc/hosts", "/dev/termination-log"]
    assert not any(mount.readonly for mount in config.mounts)
    assert mounts["/etc/hosts"].read_text().splitlines()[-1] == "10.88.0.2\tapp"
    assert "127.0.0.1\tlocalhost" in mounts["/etc/hosts"].read_text()
    # Whoever the container runs as writes there.
    assert stat.S_IMODE(mounts["/dev/termination-log"].stat().st_mode) == 0o666
    assert {path.parent for path in mounts.values()} == {tmp_path}


def test_a_volume_can_be_in_place_of_a_file_of_the_kubelet(tmp_path):
    volume = Mount("/etc/hosts", Path("/volumes/0/hosts"), read_only=True)
    config = container_config(Container("base"), "base", "app", "10.0.0.1", tmp_path, volumes=[volume])
    assert [(mount.container_path, mount.host_path) for mount in config.mounts] == [
        ("/dev/termination-log", str(tmp_path / "termination-log")),
        ("/etc/hosts", "/volumes/0/hosts"),
    ]


# Resources


def test_nothing_is_limited_unless_it_is_said(tmp_path):
    assert make_resources(tmp_path) == cri.LinuxContainerResources()


def test_memory_is_limited_in_bytes(tmp_path):
    limited = make_resources(tmp_path, memory_limit_bytes=512 << 20, memory_request_bytes=1 << 20)
    assert limited == cri.LinuxContainerResources(memory_limit_in_bytes=512 << 20)


@pytest.mark.parametrize(
    ("limit", "quota"),
    # The kernel refuses less than a millisecond.
    [(1000, 100_000), (1500, 150_000), (250, 25_000), (10, 1000), (1, 1000)],
)
def test_processors_are_limited_by_a_share_of_each_period(tmp_path, limit, quota):
    limited = make_resources(tmp_path, cpu_limit_millis=limit)
    assert (limited.cpu_quota, limited.cpu_period) == (quota, 100_000)


@pytest.mark.parametrize(
    ("request_millis", "limit_millis", "shares"),
    [
        (1000, None, 1024),
        (250, 4000, 256),
        (None, 2000, 2048),
        (0, 2000, 2048),
        (1, None, 2),
        (1_000_000, None, 262_144),
    ],
)
def test_processors_are_shared_as_requested_or_as_limited(tmp_path, request_millis, limit_millis, shares):
    limited = make_resources(tmp_path, cpu_request_millis=request_millis, cpu_limit_millis=limit_millis)
    assert limited.cpu_shares == shares


def test_a_request_alone_limits_nothing(tmp_path):
    assert make_resources(tmp_path, cpu_request_millis=500) == cri.LinuxContainerResources(cpu_shares=512)


# Security


def test_a_container_is_what_kubernetes_makes_of_one_that_says_nothing(tmp_path):
    security = make_security(tmp_path)
    assert not security.HasField("run_as_user")
    assert not security.HasField("run_as_group")
    assert (security.privileged, security.readonly_rootfs, security.no_new_privs) == (False, False, False)
    assert security.seccomp.profile_type == cri.SecurityProfile.RuntimeDefault
    assert security.namespace_options.network == cri.POD


def test_who_a_container_runs_as(tmp_path):
    security = make_security(tmp_path, run_as_user=1000, run_as_group=0, supplemental_groups=(5, 6))
    assert (security.run_as_user.value, security.run_as_group.value) == (1000, 0)
    assert security.HasField("run_as_group")
    assert list(security.supplemental_groups) == [5, 6]
    assert list(make_config(tmp_path, fs_group=7).linux.security_context.supplemental_groups) == [7]
    # Root is somebody, too.
    assert make_security(tmp_path, run_as_user=0).HasField("run_as_user")


def test_what_a_container_may_do(tmp_path):
    security = make_security(
        tmp_path,
        capabilities_add=("NET_ADMIN",),
        capabilities_drop=("ALL",),
        read_only_root_filesystem=True,
        allow_privilege_escalation=False,
    )
    assert list(security.capabilities.add_capabilities) == ["NET_ADMIN"]
    assert list(security.capabilities.drop_capabilities) == ["ALL"]
    assert (security.readonly_rootfs, security.no_new_privs, security.privileged) == (True, True, False)
    assert make_security(tmp_path, privileged=True).privileged


@pytest.mark.parametrize("privileged", [False, True])
def test_a_privileged_container_is_in_a_privileged_pod(tmp_path, privileged):
    # CRI-O: "no privileged container allowed in sandbox".
    assert pod_config("app", tmp_path, privileged=privileged).linux.security_context.privileged == privileged


# The log


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2026-11-24T12:54:50.123456789+00:00 stdout F hello world", "hello world"),
        ("2026-11-24T12:54:50.123456789Z stderr P part  of it ", "part  of it "),
        ("2026-11-24T12:54:50.123456789Z stdout F ", ""),
        ("cut", "cut"),
        ("2026-11-24T12:54:50.123456789Z stdout", "2026-11-24T12:54:50.123456789Z stdout"),
    ],
)
def test_a_line_of_the_log_is_what_the_container_wrote(line, message):
    assert log_message(line) == message


def test_what_is_not_confined_is_so_by_nothing(tmp_path):
    container = Container(
        "base",
        security_context=SecurityContext(unconfined=True),
        mounts=(Mount("/.warmstart", Path("/place"), read_only=True), Mount("/.warmstart/state", Path("/state"))),
    )
    config = container_config(container, "base", "app", "10.0.0.1", tmp_path)
    context = config.linux.security_context
    assert context.seccomp.profile_type == context.apparmor.profile_type == cri.SecurityProfile.Unconfined
    mounts = {mount.container_path: (mount.host_path, mount.readonly) for mount in config.mounts}
    assert mounts["/.warmstart"] == ("/place", True)
    assert mounts["/.warmstart/state"] == ("/state", False)
    assert "/etc/hosts" in mounts
