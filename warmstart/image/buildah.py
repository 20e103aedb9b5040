"""buildah, driven through `sh`. Only this module starts it.

`sh` would give a child a terminal and cut its error output at 750 bytes; both are switched off.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import sh

from warmstart.core.errors import ImageError

log = logging.getLogger(__name__)

TIMEOUT_S = 900


class Buildah:
    """buildah with one image store.

    Args:
        prefix: the command line that leads to buildah, such as `nsenter … -- buildah`.
        environment: its whole environment.
        root: the store's directory.
        runroot: the store's directory for state that is lost at a reboot; its parent must exist, at the same path for
            buildah.
    """

    def __init__(self, prefix: Sequence[str], environment: Mapping[str, str], root: Path, runroot: Path) -> None:
        self._scratch = runroot.parent
        self._words = [*prefix, "--root", str(root), "--runroot", str(runroot), "--storage-driver", "overlay"]
        self._command = sh.Command(self._words[0]).bake(
            *self._words[1:],
            _env=dict(environment),
            _tty_out=False,
            _truncate_exc=False,
            _new_session=True,
            _bg=True,
            _bg_exc=False,
        )

    def make_image(
        self,
        destination: str,
        *,
        annotations: Mapping[str, str],
        labels: Mapping[str, str],
        cmd: Sequence[str] | None,
    ) -> None:
        """Make an image from scratch, without content.

        The working container stays in the store.

        Args:
            destination: name of the image, or TRANSPORT:DETAILS.
            annotations: of its manifest.
            labels: of its config.
            cmd: its Cmd, if given.

        Raises:
            ImageError: buildah failed.
        """
        container = self._run("from", "--pull-never", "--quiet", "scratch")
        self.commit(container, destination, annotations=annotations, labels=labels, cmd=cmd)

    def commit(
        self,
        container: str,
        destination: str,
        *,
        annotations: Mapping[str, str],
        labels: Mapping[str, str],
        cmd: Sequence[str] | None,
    ) -> None:
        """Make an image of a working container; arguments as for `make_image`."""
        options = [f"--annotation={key}={value}" for key, value in annotations.items()]
        # The config of Docker's image format; `buildah config` would split the words of a Cmd as a shell does.
        config: dict[str, object] = {"Labels": dict(labels)}
        if cmd is not None:
            config["Cmd"] = list(cmd)
        with tempfile.NamedTemporaryFile("w", dir=self._scratch, suffix=".json") as file:
            json.dump(config, file)
            file.flush()
            self._run("commit", "--quiet", "--format=oci", f"--config={file.name}", *options, container, destination)

    def _run(self, *arguments: str) -> str:
        log.debug("+ %s", shlex.join([*self._words, *arguments]))
        try:
            running = self._command(*arguments)
            with _limited(running, TIMEOUT_S) as late:
                running.wait()
        except sh.ErrorReturnCode as failure:
            if late.is_set():
                raise ImageError(f"buildah {arguments[0]} took longer than {TIMEOUT_S} s") from failure
            stderr = failure.stderr.decode(errors="replace").strip().splitlines()
            why = stderr[-1] if stderr else f"exit status {failure.exit_code}"
            raise ImageError(f"buildah {arguments[0]} failed: {why}", details=stderr[-20:]) from failure
        except sh.CommandNotFound as missing:
            raise ImageError(f"buildah cannot run: {missing} is not installed") from missing
        return str(running).strip()


@contextlib.contextmanager
def _limited(running: sh.RunningCommand, timeout_s: float) -> Iterator[threading.Event]:
    """End the command when it takes too long (then the event is set) or when we are interrupted.

    The limit of `sh` itself is kept by a thread that outlives an interruption, and with it the whole program.
    """
    late = threading.Event()

    def end() -> None:
        with contextlib.suppress(OSError):
            running.kill_group()

    def end_late() -> None:
        late.set()
        end()

    timer = threading.Timer(timeout_s, end_late)
    timer.daemon = True
    timer.start()
    try:
        yield late
    except BaseException:
        end()
        raise
    finally:
        timer.cancel()
