"""buildah, driven through `sh`. Only this module starts it.

`sh` would give a child a terminal and cut its error output at 750 bytes; both are switched off.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import sh

from warmstart.core.errors import ImageError
from warmstart.core.undo import undoing

log = logging.getLogger(__name__)

TIMEOUT_S = 900


class Buildah:
    """buildah with one image store.

    Args:
        prefix: the command line that leads to buildah, such as `nsenter … -- buildah`.
        environment: its whole environment.
        root: the store's directory.
        runroot: the store's directory for state that is lost at a reboot.
    """

    def __init__(self, prefix: Sequence[str], environment: Mapping[str, str], root: Path, runroot: Path) -> None:
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
        directory: Path,
        destination: str,
        *,
        annotations: Mapping[str, str],
        labels: Mapping[str, str],
        cmd: Sequence[str] | None,
    ) -> None:
        """Make an image from scratch with the content of `directory`; see `configure` and `commit`."""
        with self.working_container("scratch") as container:
            self.add_directory(container, directory, "/")
            self.configure(container, annotations=annotations, labels=labels, cmd=cmd)
            self.commit(container, destination)

    @contextlib.contextmanager
    def working_container(self, image: str) -> Iterator[str]:
        """Make a working container from an image of the store, or from `scratch`, and yield its name."""
        container = self._run("from", "--pull-never", "--quiet", image)
        with undoing(partial(self._run, "rm", container)):
            yield container

    def add_directory(self, container: str, directory: Path, destination: str) -> None:
        """Copy the content of `directory` into the container's filesystem, owned by root."""
        self._run("add", "--quiet", "--chown", "0:0", container, f"{directory}/", destination)

    def configure(
        self, container: str, *, annotations: Mapping[str, str], labels: Mapping[str, str], cmd: Sequence[str] | None
    ) -> None:
        """Set annotations and labels, and Cmd if given."""
        options: list[str] = []
        for key, value in annotations.items():
            options += ["--annotation", f"{key}={value}"]
        for key, value in labels.items():
            options += ["--label", f"{key}={value}"]
        if cmd is not None:
            # buildah splits a bare string as a shell would; a JSON-like list is not understood for every word.
            options += ["--cmd", shlex.join(cmd)]
        self._run("config", *options, container)

    def commit(self, container: str, destination: str) -> None:
        """Make an image of the container; `destination` is a name or TRANSPORT:DETAILS."""
        self._run("commit", "--quiet", "--format", "oci", container, destination)

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
