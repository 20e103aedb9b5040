"""A tree with container runtimes that the tools directory lacks, made once and cached by content."""

from __future__ import annotations

from pathlib import Path

from warmstart.node.cache import SUITE, Notify, bootstrap, ensure_directory, key_of

PACKAGES = (
    "buildah",
    "ca-certificates",
    "containernetworking-plugins",
    "crun",
    "iproute2",
    "iptables",
    "mount",
    "netavark",
    "nftables",
    "podman",
    "runc",
    "skopeo",
)


def ensure_runtime_tree(cache: Path, progress: Notify) -> Path:
    """Return the tree, and create it if it is not in the cache (a minute).

    Raises:
        HostError: not root, or a package is not available.
    """

    def make(new: Path) -> None:
        progress(f"tests: runtimes from Debian {SUITE}")
        bootstrap(new, SUITE, PACKAGES, progress)

    tree = cache / "test-trees" / key_of(PACKAGES, SUITE)
    ensure_directory(tree, cache, make, progress)
    return tree
