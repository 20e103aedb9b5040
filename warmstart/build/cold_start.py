"""The cold start of an image that restores itself, observed in the background while the build goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from warmstart.build.beside import ALONE, Beside
from warmstart.build.launcher_report import check_started_cold
from warmstart.core.errors import VerifyError, WarmstartError
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success
from warmstart.recipe.model import Container

# Environment that keeps the launcher from restoring.
COLD = ("WARMSTART", "off")
NAME = "verify-cold"
IMAGE = "localhost/warmstart/cold"
# The rest of the build slows the start down. In return, the restores that are measured meanwhile hardly feel it: where
# both want the processor, it gets an eighth of a container's usual share (1024).
SLOWER = 3
CPU_MILLIS = 125

OpenEngine = Callable[[], contextlib.AbstractContextManager[LocalEngine]]


class ColdStartError(VerifyError):
    """The image did not start cold."""


class ColdStart:
    """A container that starts cold, in an engine and a thread of its own; use `observe_cold_start`.

    Args:
        open_engine: opens an engine that starts the image as it is, and restores no checkpoint in it.
        image: name of the image in that engine.
        container: container of the pod, with at least one probe.
        layout: an OCI layout to import the image from; it must not change. None if the engine has the image.
        beside: the company of the container.
    """

    def __init__(
        self,
        open_engine: OpenEngine,
        image: str,
        container: Container,
        layout: Path | None = None,
        beside: Beside = ALONE,
    ) -> None:
        self._image = image
        self._layout = layout
        self._container = container
        self._beside = replace(beside, cancelled=lambda: self._cancelled)
        self._engine: LocalEngine | None = None
        self._running: CriContainer | None = None
        self._cancelled = False
        self._error: BaseException | None = None
        self._ended = contextlib.ExitStack()
        self._opened = threading.Event()
        self._thread = self._begin(open_engine)

    def engine(self) -> LocalEngine:
        """Wait for the engine, and return it.

        Raises:
            WarmstartError: it could not be opened.
        """
        self._opened.wait()
        if self._engine is None:
            assert self._error is not None
            raise self._error
        return self._engine

    def wait(self) -> None:
        """Wait until the application was ready, and the container is gone.

        Raises:
            ColdStartError: it did not start, or the launcher restored it.
        """
        self._thread.join()
        if isinstance(self._error, WarmstartError):
            brief = f"the image did not start cold: {self._error.brief}"
            raise ColdStartError(brief, details=self._error.details, hint=self._error.hint) from self._error
        if self._error is not None:
            raise self._error

    def repeat(self, layout: Path) -> None:
        """Forget this start, and begin one of the image in another layout, in the same engine.

        Raises:
            WarmstartError: the engine could not be opened.
        """
        engine = self.engine()
        self._stop()
        self._layout, self._running, self._error, self._cancelled = layout, None, None, False
        self._thread = self._begin(lambda: contextlib.nullcontext(engine))

    def end(self) -> None:
        """End the container and the engine, and wait until they are gone."""
        self._stop()
        self._ended.close()

    def _begin(self, open_engine: OpenEngine) -> threading.Thread:
        thread = threading.Thread(target=self._observe, args=[open_engine], daemon=True)
        thread.start()
        return thread

    def _stop(self) -> None:
        self._cancelled = True
        if self._thread.is_alive() and self._running is not None:
            with contextlib.suppress(WarmstartError):
                self._running.engine.kill_container(self._running.container_id)
        self._thread.join()

    def _observe(self, open_engine: OpenEngine) -> None:
        try:
            self._engine = self._ended.enter_context(open_engine())
            self._opened.set()
            if self._layout is not None:
                self._engine.import_image(self._layout, self._image)
            if not self._cancelled:
                self._start(self._engine)
        except BaseException as error:
            self._error = error
        finally:
            self._opened.set()

    def _start(self, engine: LocalEngine) -> None:
        # The image's config has the recipe's command, behind the launcher.
        resources = replace(self._container.resources, cpu_request_millis=CPU_MILLIS)
        env = (*self._container.env, COLD)
        container = replace(self._container.run_by_image(), env=env, resources=resources)
        limit_s = SLOWER * find_limit_s(container)
        with self._beside.start(engine, container, self._image, NAME) as self._running:
            if not self._cancelled:
                wait_first_success(self._running, first_probe(container), limit_s=limit_s)
                check_started_cold(self._running)


@contextlib.contextmanager
def observe_cold_start(
    open_engine: OpenEngine,
    image: str,
    container: Container,
    layout: Path | None = None,
    beside: Beside = ALONE,
) -> Iterator[ColdStart]:
    """Start a container cold; it and its engine are gone when the block ends. Arguments as for `ColdStart`."""
    cold = ColdStart(open_engine, image, container, layout, beside)
    try:
        yield cold
    finally:
        cold.end()
