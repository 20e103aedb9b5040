"""containerd as released, as a runtime of CRI: configuration, pause image, and how to run it in a session."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from warmstart.core.errors import HostError
from warmstart.core.process import Running
from warmstart.node.crio import CNI_PLUGINS
from warmstart.node.session import PATH, Session

START_S = 60.0
CALL_S = 60.0
PAUSE_SOURCE = """\
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
    signal(SIGTERM, exit);
    for (;;)
        pause();
}
"""
PAUSE_SCRIPT = """\
set -eu
tool() { buildah --storage-driver vfs --root "$PWD/store" --runroot "$PWD/run" "$@"; }
container=$(tool from scratch)
tool add -q "$container" pause /pause
tool config --entrypoint '["/pause"]' "$container"
tool commit -q "$container" oci-archive:pause.tar:NAME
"""
# Negative values of oom_score_adj require CAP_SYS_RESOURCE, and root does not have it everywhere.
CONFIG = """\
version = 3
root = "{state}/root"
state = "{state}/state"
oom_score = 0

[grpc]
address = "{state}/containerd.sock"

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{plugins}"]
conf_dir = "{state}/net.d"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{pause}"

[plugins.'io.containerd.internal.v1.opt']
path = "{state}/opt"
"""


@contextlib.contextmanager
def run_containerd(
    session: Session, program: Path, state: Path, *, subnet: str, pause: str, more: str = ""
) -> Iterator[Path]:
    """Run containerd in a session during the block, and yield its socket.

    Args:
        session: session that can see the directory of `program`, and has runc and the plugins of CNI.
        program: containerd; its companions are in the same directory.
        state: new directory for all of its files.
        subnet: address range of its pods.
        pause: name of the image that it runs in each pod.
        more: more of its configuration.

    Raises:
        HostError: it did not start; the details are the end of its log.
    """
    _write_files(state, subnet, pause, more)
    endpoint, log = state / "containerd.sock", state / "log"
    # The session may have another containerd, with its own shim.
    command = ["env", f"PATH={program.parent}:{PATH}", program, "--config", state / "config.toml"]
    with session.background(command, log_file=log) as running:
        await_socket(endpoint, running, log)
        yield endpoint


def await_socket(socket: Path, running: Running, log: Path) -> None:
    """Wait until a program has made its socket.

    Raises:
        HostError: it ended, or took too long; the details are the end of its log.
    """
    deadline = time.monotonic() + START_S
    while not socket.is_socket():
        if running.poll() is not None or time.monotonic() > deadline:
            raise HostError(f"no program made {socket}", details=log.read_text(errors="replace").splitlines()[-15:])
        time.sleep(0.05)


def _write_files(state: Path, subnet: str, pause: str, more: str) -> None:
    (state / "net.d").mkdir(parents=True)
    (state / "config.toml").write_text(CONFIG.format(state=state, plugins=CNI_PLUGINS, pause=pause) + more)
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(state / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": "containerd", "isGateway": True, "ipam": ipam}
    network = {"cniVersion": "1.0.0", "name": "containerd", "plugins": [bridge]}
    (state / "net.d" / "10-tests.conflist").write_text(json.dumps(network))


def make_pause_image(session: Session, directory: Path, name: str) -> Path:
    """Build an image that only waits, and return its OCI archive."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pause.c").write_text(PAUSE_SOURCE)
    compile_static(directory / "pause.c", directory / "pause")
    session.run(["sh", "-c", PAUSE_SCRIPT.replace("NAME", name)], cwd=str(directory), timeout_s=CALL_S)
    return directory / "pause.tar"


def compile_static(source: Path, program: Path) -> None:
    """Compile a C source with this machine's compiler."""
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", program, source], check=True)
