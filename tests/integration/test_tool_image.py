"""The image of warmstart builds as in ci.md, on a new Debian, and its programs run."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from warmstart import __version__
from warmstart.core.process import ProgramError
from warmstart.core.progress import Progress, SilentListener
from warmstart.node.keeper import Bind
from warmstart.node.open import open_node

pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(1800)]

TOP = Path(__file__).parents[2]
CERTIFICATES = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
LIMIT_S = 900
# Whoever builds it here trusts whom this machine trusts.
SCRIPT = """\
set -eu
tool() { buildah --storage-driver vfs --root "$PWD/store" --runroot "$PWD/run" "$@"; }
mmdebstrap --quiet --variant=apt --mode=root --include=ca-certificates trixie base.tar \
    --customize-hook="upload certificates.crt /etc/ssl/certs/ca-certificates.crt"
container=$(tool from scratch)
tool add -q "$container" base.tar /
tool config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$container"
tool commit -q --rm "$container" localhost/base >&2
tool build --isolation chroot --network host --pull=never --build-arg BASE=localhost/base \
    --ulimit nproc=NPROC --ulimit nofile=NOFILE \
    --file SOURCE/integrations/image/Containerfile --tag localhost/warmstart SOURCE >&2
container=$(tool from --pull-never --ulimit nproc=NPROC --ulimit nofile=NOFILE localhost/warmstart)
for words in 'warmstart --version' 'kubectl-warmstart deploy --help' 'mmdebstrap --version' 'nsenter --version'; do
    said=$(tool run --isolation chroot "$container" -- $words)
    echo "$said" | head -n 1
done
tool inspect --type image --format '{{.OCIv1.Config.Env}}' localhost/warmstart
"""


def test_the_image_of_warmstart(cache) -> None:
    with open_node("test", cache, Progress(SilentListener()), binds=[Bind(str(TOP))]) as session:
        workspace = session.workspace
        (workspace / "certificates.crt").write_bytes(CERTIFICATES.read_bytes())
        script = SCRIPT.replace("SOURCE", str(TOP))
        # buildah's defaults are higher than our own limits, which only CAP_SYS_RESOURCE may raise.
        for name in ("NPROC", "NOFILE"):
            limits = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
            script = script.replace(name, ":".join(map(str, limits)))
        argv = ["sh", "-c", script]
        try:
            lines = session.run(argv, cwd=str(workspace), host_network=True, timeout_s=LIMIT_S).stdout.splitlines()
        except ProgramError as error:
            error.add_note(error.stderr)
            raise

    assert lines[0] == f"warmstart, version {__version__}"
    assert lines[1].startswith("Usage: kubectl warmstart deploy ")
    assert lines[2].startswith("mmdebstrap ")
    assert lines[3].startswith("nsenter ")
    assert "WARMSTART_CACHE=/var/lib/warmstart" in lines[4]
