"""Third-party programs, compiled from their Go modules once and cached."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from warmstart.core.workspace import open_workspace
from warmstart.node.cache import SUITE, Notify, as_host_error, bootstrap, ensure_directory, key_of
from warmstart.node.session import enter

PACKAGES = ("ca-certificates", "golang-go")
COMPILE_S = 1800.0
SCRIPT = """\
set -eu
export GOPATH=$PWD/go GOCACHE=$PWD/cache GOTOOLCHAIN=local GOFLAGS=-modcacherw CGO_ENABLED=0
mkdir sources && cd sources
{get}
{builds}
"""
BUILD = "go build -trimpath -ldflags '-s -w' -o ../programs/{name} {package}"
# A module without `replace` directives can be required by an empty module.
GET = "go mod init tests && go get {wanted}"
GET_SOURCE = f"cp ../main.go . && {GET} && go get ."


@dataclass(frozen=True)
class GoTool:
    """A program from a third-party package, or from our own source that uses a third-party module.

    Attributes:
        name: name of the program.
        package: package of the program, or the module if `source` is given.
        version: version of the module.
        source: text of main.go.
        companions: further programs that belong to it, by name and package; PACKAGE@VERSION if not of its module.
    """

    name: str
    package: str
    version: str
    source: str = ""
    companions: tuple[tuple[str, str], ...] = ()

    @property
    def script(self) -> str:
        """Return the script that compiles the programs."""
        get = GET_SOURCE if self.source else GET
        packages = (self.package, *(package for _, package in self.companions))
        programs = ((self.name, "." if self.source else self.package), *self.companions)
        return SCRIPT.format(
            get=get.format(wanted=" ".join(one if "@" in one else f"{one}@{self.version}" for one in packages)),
            builds="\n".join(BUILD.format(name=name, package=package.partition("@")[0]) for name, package in programs),
        )


HELM = GoTool("helm", "helm.sh/helm/v4/cmd/helm", "v4.3.1")
KREW = GoTool("kubectl-krew", "sigs.k8s.io/krew/cmd/krew", "v0.4.3")
TEKTON = GoTool(
    "tekton-validate",
    "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1",
    "v1.6.0",
    Path(__file__).with_name("tekton_validate.go").read_text(),
)


_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
CONTAINERD = GoTool(
    "containerd",
    f"{_CONTAINERD}/containerd",
    "v2.4.2",
    companions=tuple((name, f"{_CONTAINERD}/{name}") for name in ("containerd-shim-runc-v2", "ctr")),
)


def ensure_go_tool(cache: Path, tool: GoTool, progress: Notify) -> Path:
    """Return the program, beside its companions, and compile them if they are not in the cache (a few minutes).

    Raises:
        HostError: not root, or a package or module is not available.
    """
    key = key_of(asdict(tool), tool.script, PACKAGES, SUITE, os.uname().machine)
    directory = cache / "programs" / f"{tool.name}-{key}"
    ensure_directory(directory, cache, lambda new: _compile(tool, new, progress), progress)
    return directory / tool.name


def _compile(tool: GoTool, into: Path, progress: Notify) -> None:
    with open_workspace("go") as workspace:
        bootstrap(workspace / "compiler", SUITE, PACKAGES, progress)
        inner = workspace / f"compile-{workspace.name}"  # the name of a cgroup, and others may compile too
        inner.mkdir()
        (inner / "main.go").write_text(tool.source)
        progress(f"tests: compiling {tool.name} {tool.version}")
        hint = "the Go module proxy must be reachable; GOPROXY and https_proxy apply"
        with enter(workspace / "compiler", inner) as session, as_host_error(f"compile {tool.name}", hint):
            session.run(["sh", "-c", tool.script], cwd=str(inner), timeout_s=COMPILE_S, host_network=True)
        shutil.copytree(inner / "programs", into, dirs_exist_ok=True)
