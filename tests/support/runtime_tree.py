"""A tree with container runtimes that the tree of tools lacks, made once and kept in the cache by what it contains."""

from __future__ import annotations

from pathlib import Path

from warmstart.node.making import SUITE, Progress, bootstrap, key_of, made_beside, sole_maker

PACKAGES = (
    "buildah",
    "ca-certificates",
    "containerd",
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


def ensure_runtime_tree(cache: Path, progress: Progress) -> Path:
    """The tree, made now if it is not in the cache yet (a minute).

    Raises:
        HostError: not root, or the packages could not be had.
    """
    tree = cache / "test-trees" / key_of(PACKAGES, SUITE)
    if not tree.is_dir():
        with sole_maker(cache, progress):
            if not tree.is_dir():
                with made_beside(tree) as new:
                    progress(f"tests: runtimes from Debian {SUITE}")
                    bootstrap(new, SUITE, PACKAGES, progress)
    return tree
