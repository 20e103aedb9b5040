"""What an image that restores itself does where it cannot: it starts cold, soon, and says why."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.builds import get
from support.containerd import PAUSE_SOURCE, compile_static
from support.runtimes import IMAGE, Podman, open_podman, wait_for_line

pytestmark = [pytest.mark.node, pytest.mark.slow]

FILES = Path(".warmstart")
SOON_MS = 500
# CRIU is given this long where it neither ends nor says what is wrong (launcher/src/criu.c).
PATIENCE_MS = 7000
MEMORY_LIMIT = 40 << 20


@pytest.fixture(scope="module")
def podman(session) -> Iterator[Podman]:
    """Podman, with an image whose memory is mapped."""
    with open_podman(session, session.workspace / "image.tar", "runc") as podman:
        yield podman


@pytest.fixture(scope="module")
def root(podman) -> Path:
    """The image's root directory, to read."""
    return Path(podman.call("image", "mount", IMAGE).strip())


@pytest.fixture
def replaced(podman, root, tmp_path) -> Callable[[Path, Callable[[bytes], bytes]], str]:
    """The option that has a container find other content in a file of the image."""

    def replace(file: Path, change: Callable[[bytes], bytes]) -> str:
        # In the session the root is the tree's.
        original = podman.session.root / str(root).lstrip("/") / file
        copy = podman.session.workspace / f"{tmp_path.name}-{file.name}"
        copy.write_bytes(change(original.read_bytes()))
        status = original.stat()
        os.chown(copy, status.st_uid, status.st_gid)
        copy.chmod(status.st_mode & 0o777)
        return f"--volume={copy}:/{file}:ro"

    return replace


def await_cold(podman: Podman, reason: str, *options: str, within_ms: int = SOON_MS, **env: str) -> None:
    """See a container start cold for that reason, within that time of the launcher's, and answer."""
    with podman.with_options(*options).start(**env) as started:
        wait_for_line(started, r"listening")
        said = re.search(r"^warmstart: cold start: (.*) \((\d+) ms\)$", started.log(), re.MULTILINE)
        assert said, started.log()
        assert re.fullmatch(reason, said[1])
        assert int(said[2]) <= within_ms
        if "--pid=host" not in options:
            assert get(started, "/check")[0] == 200


def find_core(root: Path, podman: Podman) -> Path:
    checkpoint = podman.session.root / str(root).lstrip("/") / FILES / "checkpoint"
    return FILES / "checkpoint" / next(checkpoint.glob("core-*.img")).name


def test_another_processor(podman, replaced):
    option = replaced(FILES / "manifest", lambda text: re.sub(rb"(?m)^cpu .*", rb"\g<0> warp-drive", text))
    await_cold(podman, "this processor has no warp-drive, the checkpoint's had", option)


def test_a_truncated_checkpoint(podman, root, replaced):
    option = replaced(find_core(root, podman), lambda content: content[: len(content) // 2])
    await_cold(podman, r"core-\d+\.img of the checkpoint has \d+ bytes instead of \d+", option)


def test_truncated_memory(podman, replaced):
    option = replaced(FILES / "memory", lambda content: content[: len(content) // 2])
    await_cold(podman, r"\.\./memory of the checkpoint has \d+ bytes instead of \d+", option)


def test_a_corrupted_checkpoint(podman, root, replaced):
    option = replaced(find_core(root, podman), lambda content: bytes(byte ^ 0x55 for byte in content))
    await_cold(podman, "CRIU: .+", option)


def test_a_checkpoint_that_is_gone(podman):
    option = "--tmpfs=/.warmstart/checkpoint:notmpcopyup,mode=0755"
    await_cold(podman, r"\S+\.img of the checkpoint: No such file or directory", option)


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("1001:1000", "uid is 1001, the checkpoint was made as 1000"),
        ("1000:1001", "gid is 1001, the checkpoint was made as 1000"),
        ("0:0", "uid is 0, the checkpoint was made as 1000"),
    ],
)
def test_somebody_else(podman, user, reason):
    await_cold(podman, reason, f"--user={user}")


def test_numbers_of_processes_that_are_used_up(podman):
    await_cold(podman, r"CRIU: Pid \d+ is used up, the last one is \d+", "--pid=host", PORT="8089")


def test_a_criu_that_hangs(podman, replaced, tmp_path):
    (tmp_path / "pause.c").write_text(PAUSE_SOURCE)
    compile_static(tmp_path / "pause.c", tmp_path / "pause")
    option = replaced(FILES / "criu", lambda _: (tmp_path / "pause").read_bytes())
    await_cold(podman, "CRIU timed out", option, within_ms=PATIENCE_MS)


def test_less_memory_than_was_dumped(session, make_image):
    """Not where it is mapped from the image: what is only read can be read again."""
    archive = session.workspace / "none.tar"
    archive.write_bytes(make_image("none").archive.read_bytes())
    with open_podman(session, archive, "runc") as podman:
        reason = rf"the memory limit is {MEMORY_LIMIT} bytes, the checkpoint has \d+"
        await_cold(podman, reason, f"--memory={MEMORY_LIMIT}", f"--memory-swap={MEMORY_LIMIT}", FILL_MB="1")
