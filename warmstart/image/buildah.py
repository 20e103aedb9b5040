"""buildah, driven through `sh`. Only this module starts it.

`sh` would give a child a terminal and cut its error output at 750 bytes; both are switched off.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import sh

from warmstart.core.errors import ImageError

log = logging.getLogger(__name__)

TIMEOUT_S = 900


class Buildah:
    """buildah with one image store, a directory that nothing else uses.

    The store uses the vfs driver: a working container's filesystem is then a plain directory, and nothing is mounted.

    Args:
        prefix: the command line that leads to buildah, such as `nsenter … -- buildah`.
        environment: its whole environment.
        store: a directory in the workspace, at the same path for buildah.
    """

    def __init__(self, prefix: Sequence[str], environment: Mapping[str, str], store: Path) -> None:
        self._store = store
        options = ["--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "vfs"]
        self._words = [*prefix, *options]
        self._command = sh.Command(self._words[0]).bake(
            *self._words[1:],
            _env=dict(environment),
            _tty_out=False,
            _truncate_exc=False,
            _new_session=True,
            _bg=True,
            _bg_exc=False,
        )
        self._running: sh.RunningCommand | None = None
        self._stopped = False

    @contextlib.contextmanager
    def working_container(self) -> Iterator[WorkingContainer]:
        """Open an empty working container, in a thread; if the `with` block fails, buildah ends early."""
        with ThreadPoolExecutor(1) as executor:
            container = WorkingContainer(executor, self._run, self._store)
            try:
                yield container
            except BaseException:
                self._stop()
                raise

    def _run(self, *arguments: str) -> str:
        log.debug("+ %s", shlex.join([*self._words, *arguments]))
        try:
            running = self._running = self._command(*arguments)
            with _limited(running, TIMEOUT_S) as late:
                if self._stopped:
                    _end(running)
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

    def _stop(self) -> None:
        self._stopped = True
        if self._running is not None:
            _end(self._running)


class WorkingContainer:
    """A container. Its filesystem becomes the only layer of an image.

    It takes two runs of buildah, of about 50 and 100 ms. `buildah mount` would be a third, only to print the path of
    the directory that the vfs driver has made (`dir` in drivers/vfs/driver.go of containers/storage). `buildah add`
    would copy the content and start itself anew in a chroot several times: 0.25 s for the smallest checkpoint.
    """

    def __init__(self, executor: ThreadPoolExecutor, run: Callable[..., str], store: Path) -> None:
        self._executor = executor
        self._run = run
        self._config = store / "config.json"
        self._layers = store / "root/vfs/dir"
        self._opened = executor.submit(self._open)

    def commit(
        self,
        directory: Path,
        destination: str,
        *,
        annotations: Mapping[str, str],
        labels: Mapping[str, str],
        cmd: Sequence[str] | None,
    ) -> Future[None]:
        """Make an image with the content of a directory, in the thread; the container is gone then.

        All modification times are 0 in the image, so that the same content makes the same layer.

        Args:
            directory: on the filesystem of the store. Its content is moved there, and removed with the container.
            destination: the image, as TRANSPORT:DETAILS.
            annotations: of the manifest.
            labels: of the config.
            cmd: Cmd of the config; none when None.

        Returns:
            A future that raises ImageError if buildah fails.
        """
        config = {"Labels": dict(labels), **({"Cmd": list(cmd)} if cmd else {})}
        # buildah's own annotation would replace one of ours.
        options = ["--created-annotation=false", *(f"--annotation={key}={value}" for key, value in annotations.items())]
        return self._executor.submit(self._commit, directory, destination, json.dumps(config), options)

    def _open(self) -> tuple[str, Path]:
        name = self._run("from", "--pull-never", "--quiet", "scratch")
        roots = list(self._layers.glob("*"))
        if len(roots) != 1:
            raise ImageError(f"buildah from failed: {self._layers} has {len(roots)} layers instead of one")
        return name, roots[0]

    def _commit(self, directory: Path, destination: str, config: str, options: Sequence[str]) -> None:
        name, root = self._opened.result()
        for entry in directory.iterdir():
            entry.rename(root / entry.name)
        for path in (*root.rglob("*"), root):
            os.utime(path, (0, 0), follow_symlinks=False)
        self._config.write_text(config)
        words = ["--quiet", "--rm", "--format", "oci", f"--config={self._config}", *options]
        self._run("commit", *words, name, destination)


def _end(running: sh.RunningCommand) -> None:
    with contextlib.suppress(OSError):
        running.kill_group()


@contextlib.contextmanager
def _limited(running: sh.RunningCommand, timeout_s: float) -> Iterator[threading.Event]:
    """End the command when it takes too long (then the event is set) or when we are interrupted.

    The limit of `sh` itself is kept by a thread that outlives an interruption, and with it the whole program.
    """
    late = threading.Event()

    def end_late() -> None:
        late.set()
        _end(running)

    timer = threading.Timer(timeout_s, end_late)
    timer.daemon = True
    timer.start()
    try:
        yield late
    except BaseException:
        _end(running)
        raise
    finally:
        timer.cancel()
