"""Find the versions of runc, crun and CRIU on a node from a pod.

The API has the version of the container runtime, but not of the programs that it runs. A helper pod that sees the
node's /usr, read-only, can ask the programs themselves, without any capability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from warmstart.core.errors import ClusterError
from warmstart.kube.client import Cluster
from warmstart.kube.helper import Errand, open_helper
from warmstart.node.advisories import ADVISORIES, find_version

DIRECTORY = "/usr"
LIMIT_S = 30.0
# Prints `NAME OUTPUT` for each program; the first line counts. One that is linked to libraries of the node needs the
# node's loader.
SCRIPT = """\
ask() {
    "$1" --version 2>/dev/null && return
    for loader in "$usr"/lib*/ld-linux*.so* "$usr"/lib/*/ld-linux*.so*; do
        [ -e "$loader" ] || continue
        directory=${loader%/*}
        "$loader" --library-path "$directory:$usr/lib" "$1" --version 2>/dev/null && return
    done
}
for name in NAMES; do
    for directory in local/sbin local/bin sbin bin libexec/crio lib/cri-o-runc/sbin; do
        [ -f "$usr/$directory/$name" ] || continue
        said=$(ask "$usr/$directory/$name")
        [ -z "$said" ] || { echo "$name $said"; break; }
    done
done
"""


def find_versions(cluster: Cluster, node: str, errand: Errand) -> dict[str, str]:
    """Ask the programs of a node for their versions; missing or silent ones are left out.

    Raises:
        ClusterError: the helper pod cannot be made.
    """
    with open_helper(cluster, node, replace(errand, directory=DIRECTORY), writable=False) as helper:
        script = f"usr=/checkpoints\n{SCRIPT}".replace("NAMES", " ".join(one.program for one in ADVISORIES))
        output: list[bytes] = []
        try:
            cluster.exec(helper.pod, "helper", ["sh", "-c", script], write=output.append, timeout_s=LIMIT_S)
        except TimeoutError as late:
            raise ClusterError(f"the programs on the node {node} do not answer within {LIMIT_S:g} s") from late
    return parse_versions(b"".join(output).decode(errors="replace"))


def parse_versions(output: str) -> dict[str, str]:
    """Parse the output of the script."""
    names = {one.program for one in ADVISORIES}
    lines = [line.partition(" ") for line in output.splitlines()]
    return {name: version for name, _, said in lines if name in names and (version := find_version(said))}


def make_fixes_document(versions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return as JSON the fixes for crafted links that the programs have; null is unknown."""
    return [
        {
            "program": one.program,
            "version": versions.get(one.program),
            "cve": one.cve,
            "fixed": one.is_fixed(versions.get(one.program, "")),
        }
        for one in ADVISORIES
    ]
