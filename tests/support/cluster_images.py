"""Push images to the registry of a cluster, from which its nodes pull."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.cluster.cluster import Cluster

from warmstart.node.session import Session

HELPER_SCRIPT = """\
set -eu
tool() { buildah --storage-driver vfs --root "$PWD/store" --runroot "$PWD/run" "$@"; }
for program in cat chmod cut grep head ls mkdir readlink rm sh sleep stat; do
    cp --dereference --parents $(command -v $program) $(ldd $(command -v $program) | grep -o '/[^ ]*') "$PWD/root"
done
container=$(tool from scratch)
tool add -q "$container" root /
tool commit -q "$container" oci-archive:helper.tar
"""


def push_image(cluster: Cluster, session: Session, archive: Path, repository: str) -> str:
    """Push the image of an OCI archive to the cluster's registry, and return its name there."""
    copy = session.workspace / archive.name
    if copy != archive:
        shutil.copyfile(archive, copy)
    name = f"{cluster.registry}/{repository}"
    command = ["skopeo", "copy", "--dest-tls-verify=false", f"oci-archive:{copy}", f"docker://{name}"]
    session.run(command, host_network=True, timeout_s=120)
    return name


def make_helper_image(cluster: Cluster, session: Session) -> str:
    """Build an image for helper pods from the tools directory, and push it to the cluster's registry."""
    (session.workspace / "root").mkdir()
    session.run(["sh", "-c", HELPER_SCRIPT], cwd=str(session.workspace), timeout_s=60)
    return push_image(cluster, session, session.workspace / "helper.tar", "tests/helper:1")
