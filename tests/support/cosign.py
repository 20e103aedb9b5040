"""The real cosign, from Debian's package: installed once, and cached outside of the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.workspace import open_workspace
from warmstart.node.cache import SUITE, Notify, bootstrap, ensure_directory, key_of

PACKAGES = ("cosign",)
VERIFY_S = 60


@dataclass(frozen=True)
class Cosign:
    """A cosign that reaches nothing outside of this machine, and has no keys and no trust of its own.

    Attributes:
        program: the program.
        home: its home directory.
        docker_config: directory of the credentials for registries.
    """

    program: Path
    home: Path
    docker_config: Path

    def run(self, command: str, image: str, key: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Run `verify` or `verify-attestation` on an image, as documented for users."""
        return self.call(command, "--key", str(key), "--insecure-ignore-tlog", *options, image)

    def sign(self, image: str, key: Path, password: str) -> None:
        """Sign an image, named by its digest, without any service."""
        options = ["--tlog-upload=false", "--use-signing-config=false", "--yes"]
        self.call("sign", "--key", str(key), *options, image, password=password).check_returncode()

    def call(self, command: str, *words: str, password: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command."""
        return subprocess.run(
            [self.program, command, "--allow-http-registry", *words],
            env={
                "HOME": str(self.home),
                "DOCKER_CONFIG": str(self.docker_config),
                "COSIGN_PASSWORD": password,
                # Nobody listens there.
                "HTTPS_PROXY": "http://127.0.0.1:9",
                "HTTP_PROXY": "http://127.0.0.1:9",
                "NO_PROXY": "127.0.0.1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERIFY_S,
            check=False,
        )


def ensure_cosign(cache: Path, progress: Notify) -> Path:
    """Return the program, and install it if it is not in the cache (half a minute).

    Raises:
        HostError: not root, or the package is not available.
    """
    key = key_of(PACKAGES, SUITE, os.uname().machine)
    directory = cache / "programs" / f"cosign-{key}"
    ensure_directory(directory, cache, lambda new: _install(new, progress), progress)
    return directory / "cosign"


def _install(into: Path, progress: Notify) -> None:
    with open_workspace("cosign") as workspace:
        bootstrap(workspace / "root", SUITE, PACKAGES, progress)
        # It needs the C library alone, of Debian 12 or later.
        shutil.copy2(workspace / "root/usr/bin/cosign", into / "cosign")
