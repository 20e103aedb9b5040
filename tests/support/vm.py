"""A virtual machine that runs Debian with its own kernel, systemd, and cgroup v2 only, like most machines.

QEMU and Debian's packages are cached by content. Each run writes to its own directory. The machine needs no network,
and has none: it gets the tools directory and the launcher of this machine.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

from warmstart.core.workspace import open_workspace
from warmstart.node.cache import Notify, bootstrap, ensure_directory, key_of
from warmstart.node.host_files import CA_BUNDLE
from warmstart.node.launcher import ensure_launcher
from warmstart.node.session import enter
from warmstart.node.tree import ensure_tree

TOP = Path(__file__).parents[2]
QEMU_SUITE, QEMU_PACKAGES = "trixie", ("qemu-system-x86",)
PACKAGES = (
    "ca-certificates",
    "dbus",
    "gcc",
    "initramfs-tools",
    "libc6-dev",
    "linux-image-amd64",
    "mount",
    "python3",
    "python3-pip",
    "systemd-sysv",
    "udev",
    "util-linux",
)
PIP_S, VM_S = 600.0, 5400.0
# The machine runs the script on its second disk, and powers off.
SERVICE = """\
[Unit]
Description=What is to be tried
After=multi-user.target
[Service]
Type=oneshot
ExecStartPre=/bin/mount /dev/vdb /srv
ExecStart=/bin/sh /srv/run
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=journal+console
[Install]
WantedBy=default.target
"""
RUN = """\
export HOME=/root PYTHONPATH=/srv/warmstart:/opt/site WARMSTART_CACHE=/srv/cache PYTHONDONTWRITEBYTECODE=1 TERM=dumb
cd /srv/warmstart
sh /srv/script
echo "ended with status $?"
"""
# Writes to the root disk go to a temporary snapshot. The machine returns a tar on its third disk.
COMMAND = """\
set -eu
mount --bind /dev {qemu}/dev
mkdir -p {qemu}/mnt/root {qemu}/mnt/run
mount --bind {root} {qemu}/mnt/root
mount --bind {run} {qemu}/mnt/run
exec chroot {qemu} qemu-system-x86_64 {processor} -m 4096 -nographic -monitor none -no-reboot -nic none \\
    -kernel /mnt/root/vmlinuz -initrd /mnt/root/initrd \\
    -append 'root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.firstboot=no' \\
    -drive file=/mnt/root/disk,format=raw,if=virtio,snapshot=on \\
    -drive file=/mnt/run/disk,format=raw,if=virtio,cache=unsafe \\
    -drive file=/mnt/run/result,format=raw,if=virtio,cache=unsafe
"""
KVM, EMULATED = "-accel kvm -cpu host -smp 2", "-accel tcg,thread=multi,tb-size=512 -cpu max -smp 2"
DISK, RESULT_BYTES = "8G", 256 << 20


def has_kvm() -> bool:
    """Return whether the machine has KVM. Some machines have the device, but cannot use it."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return Path("/dev/kvm").exists() and bool({"vmx", "svm"} & set(flags))


def run_in_vm(cache: Path, suite: str, script: str, files: dict[str, Path], result: Path, progress: Notify) -> str:
    """Run a shell script as root on a new machine, and return its console output.

    Args:
        cache: cache directory.
        suite: Debian suite.
        script: shell script; it runs in the checkout, and may write a tar to /dev/vdc.
        files: files and directories that the script finds in /srv, by name.
        result: directory in which the machine's tar is unpacked.
        progress: called with a line when a stage begins.
    """
    qemu, root = _ensure(cache, QEMU_SUITE, progress, qemu=True), _ensure(cache, suite, progress)
    with open_workspace("vm") as run:
        with _stage(cache, run, script, files, progress) as stage:
            _make_disk(stage, run / "disk")
        with (run / "result").open("wb") as device:
            device.truncate(RESULT_BYTES)
        command = COMMAND.format(qemu=qemu, root=root, run=run, processor=KVM if has_kvm() else EMULATED)
        progress(f"vm: Debian {suite}")
        argv = ["unshare", "--mount", "sh", "-c", command]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=VM_S
        )
        subprocess.run(["tar", "xf", run / "result", "-C", result], capture_output=True)
    return done.stdout + done.stderr


@contextlib.contextmanager
def _stage(cache: Path, run: Path, script: str, files: dict[str, Path], progress: Notify) -> Iterator[Path]:
    """Collect the files of the second disk in a directory. The trees are cloned if the filesystem supports it."""
    stage = run / "stage"
    tree, launcher = ensure_tree(cache, progress), ensure_launcher(cache, progress).directory
    for source in (tree, launcher):
        target = stage / "cache" / source.relative_to(cache)
        target.parent.mkdir(parents=True)
        subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)
    shutil.copytree(TOP, stage / "warmstart", ignore=_find_ignored)
    # As if pip had installed it.
    metadata = stage / "warmstart" / "warmstart-0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    metadata.write_text(f"Metadata-Version: 2.1\nName: warmstart\nVersion: {project['version']}\n")
    for name, source in files.items():
        (shutil.copytree if source.is_dir() else shutil.copy)(source, stage / name)
    (stage / "run").write_text(RUN)
    (stage / "script").write_text(script)
    yield stage
    shutil.rmtree(stage)


def _find_ignored(directory: str, names: list[str]) -> set[str]:
    """Return the names to leave out: of the directories `build`, only that of the checkout, not the package's."""
    ignored = shutil.ignore_patterns(".*", "__pycache__")(directory, names)
    return ignored | ({"build"} if Path(directory) == TOP else set())


def _make_disk(source: Path, disk: Path) -> None:
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", "-d", source, disk, DISK], check=True)


def _ensure(cache: Path, suite: str, progress: Notify, *, qemu: bool = False) -> Path:
    """Return a tree with QEMU, or a directory with the kernel, the initrd and the root disk of Debian."""
    name, packages = ("qemu", QEMU_PACKAGES) if qemu else ("root", PACKAGES)
    requirements = _find_requirements()
    directory = cache / "vm" / f"{name}-{key_of(suite, packages, [] if qemu else [SERVICE, requirements])}"

    def make(new: Path) -> None:
        if qemu:
            bootstrap(new, suite, packages, progress)
        else:
            _make_root(new, suite, requirements, progress)

    ensure_directory(directory, cache, make, progress)
    return directory


def _find_requirements() -> list[str]:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    development = project["optional-dependencies"]["dev"]
    return [*project["dependencies"], *(name for name in development if name.startswith(("pytest", "hypothesis")))]


def _make_root(new: Path, suite: str, requirements: list[str], progress: Notify) -> None:
    with open_workspace("vm-root") as workspace:
        root, inner = workspace / "root", workspace / "inner"
        bootstrap(root, suite, PACKAGES, progress)
        inner.mkdir()
        with enter(root, inner) as session:
            pip = ["python3", "-m", "pip", "install", "--quiet", "--cert", CA_BUNDLE, "--target", inner / "site"]
            session.run([*pip, *requirements], timeout_s=PIP_S, host_network=True)
        shutil.copytree(inner / "site", root / "opt" / "site")
        (root / "etc/systemd/system/try.service").write_text(SERVICE)
        subprocess.run(["systemctl", f"--root={root}", "--quiet", "enable", "try.service"], check=True)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(next((root / "boot").glob(f"{name}-*")), new / name.removesuffix(".img"))
        _make_disk(root, new / "disk")
