"""Kubernetes as one program, compiled once and cached by its sources.

The compiler is in a tree of its own, which is thrown away, as that of CRI-O is (`warmstart.node.tree`). Run this module
to compile before the tests begin: on a busy machine, that takes longer than a test may.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from support.go_tools import CONTAINERD, ensure_go_tool

from warmstart.cli.context import default_cache
from warmstart.core.errors import WarmstartError
from warmstart.core.workspace import open_workspace
from warmstart.node.cache import SUITE, Notify, as_host_error, bootstrap, ensure_directory, key_of
from warmstart.node.session import enter

SOURCES = Path(__file__).with_name("kubernetes")
VERSION = "1.37.2"
PACKAGES = ("ca-certificates", "golang-go")
COMPILE_S = 3600.0
# Without a version, the API server reports v0.0.0.
COMPILE_SCRIPT = f"""\
set -eu
export GOPATH=$PWD/go GOCACHE=$PWD/cache GOTOOLCHAIN=local GOFLAGS=-modcacherw CGO_ENABLED=0
variables=k8s.io/component-base/version
cd sources
go build -trimpath -o ../kubernetes -ldflags "-s -w -X $variables.gitVersion=v{VERSION} -X $variables.gitMajor=1 \\
    -X $variables.gitMinor={VERSION.split(".")[1]} -X $variables.gitTreeState=clean" .
"""


def ensure_kubernetes(cache: Path, progress: Notify) -> Path:
    """Return the program, and compile it if it is not in the cache (some minutes).

    Raises:
        HostError: not root, or a package or module is not available.
    """
    sources = {path.name: path.read_text() for path in sorted(SOURCES.iterdir())}
    directory = cache / "programs" / f"kubernetes-{key_of(sources, PACKAGES, COMPILE_SCRIPT, os.uname().machine)}"
    ensure_directory(directory, cache, lambda new: _compile(new, progress), progress)
    return directory / "kubernetes"


def _compile(into: Path, progress: Notify) -> None:
    with open_workspace("kubernetes") as workspace:
        progress(f"cluster: a compiler, from Debian {SUITE}")
        bootstrap(workspace / "compiler", SUITE, PACKAGES, progress)
        inner = workspace / "compile"
        shutil.copytree(SOURCES, inner / "sources")
        progress(f"cluster: compiling Kubernetes {VERSION} (some minutes)")
        hint = "the Go module proxy must be reachable; GOPROXY and https_proxy apply"
        with enter(workspace / "compiler", inner) as session, as_host_error("compile Kubernetes: the compiler", hint):
            session.run(["sh", "-c", COMPILE_SCRIPT], cwd=str(inner), timeout_s=COMPILE_S, host_network=True)
        shutil.copy2(inner / "kubernetes", into)


def main() -> int:
    """Compile Kubernetes and containerd if they are not in the cache."""
    cache, progress = Path(os.environ.get("WARMSTART_CACHE") or default_cache()), partial(print, flush=True)
    try:
        ensure_kubernetes(cache, progress)
        ensure_go_tool(cache, CONTAINERD, progress)
    except WarmstartError as error:
        print(error, *error.details, error.hint, sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
