"""What a user does, on machines as users have them: a distribution's kernel, systemd, cgroup v2 alone.

Where KVM does not run, the machine's processor is emulated: it takes minutes instead of seconds.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.base_image import make_base_archive
from support.builds import build, write_recipe
from support.vm import VM_S, run_in_vm

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.build.verify_source import verify_source
from warmstart.cli.context import default_cache
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport, parse_source
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.inspect.trust import trust
from warmstart.node.open import open_node

pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(VM_S + 1800)]

IMAGE = "localhost/tests/crossed:1"
# Debian 12, Debian 13, and the next one: Linux 6.1, 6.12, and 7.2 in November 2026.
SUITES = ("bookworm", "trixie", "forky")
# An emulated processor has no AVX-512, for which the C library looks.
OLDER = {"name": "GLIBC_TUNABLES", "value": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD"}
LIMITS = {"limits": {"memory": "64Mi", "cpu": "500m"}}
SCRIPT = """\
set -eu
before=$(cat /sys/fs/cgroup/cgroup.subtree_control)
uname -r
python3 -m warmstart doctor
python3 -m warmstart verify oci:/srv/layout
python3 -m warmstart build /srv/recipe.yaml --output oci:/var/tmp/built
tar -cf /dev/vdc -C /var/tmp built
python3 -m pytest -q -p no:cacheprovider tests/unit/node/test_cgroup.py tests/integration/test_self_restore.py \\
    tests/launcher/test_restore.py -k 'cgroup or less_memory or one_image or user_namespace'
[ "$before" = "$(cat /sys/fs/cgroup/cgroup.subtree_control)" ]
[ -z "$(find /sys/fs/cgroup -name 'warmstart*')" ]
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ws-test-", dir="/var/tmp") as directory:
        yield Path(directory)


@pytest.mark.parametrize("suite", SUITES)
def test_a_debian_builds_and_restores_and_images_cross(suite, place):
    if os.geteuid() != 0:
        pytest.skip("needs root to make a virtual machine")
    cache = Path(os.environ.get("WARMSTART_CACHE") or default_cache())
    container = {"env": [OLDER], "resources": LIMITS}
    with open_node("test", cache, Progress(SilentListener())) as session:
        make_base_archive(session, place / "base.tar")
    here = write_recipe(place / "recipe.yaml", place / "base.tar", IMAGE, container)
    build(here, BuildOptions(cache, Output(Transport.OCI, place / "layout")))
    there = write_recipe(place / "there.yaml", Path("/srv/base.tar"), IMAGE, container)
    files = {"recipe.yaml": there, "base.tar": place / "base.tar", "layout": place / "layout"}
    console = run_in_vm(cache, suite, SCRIPT, files, place, print)
    print(console)
    assert "ended with status 0" in console
    verify_source(
        parse_source(f"oci:{place}/built"), cache, RegistryAccess(), Progress(SilentListener()), decide=trust(())
    )
