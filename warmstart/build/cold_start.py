"""The cold start of an image that restores itself, observed in the background while the build goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from warmstart.build.launcher_report import check_started_cold
from warmstart.core.errors import VerifyError, WarmstartError
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success
from warmstart.recipe.model import Container

# Environment that keeps the launcher from restoring.
COLD = ("WARMSTART", "off")
NAME = "verify-cold"
# The container gives way to everything else on the node, so that measured restores are not slowed down.
LEAST_CPU_MILLIS = 1
SLOWER = 5


class ColdStart:
    """A container that starts cold in a thread of its own; use `observe_cold_start`.

    Args:
        engine: where it runs.
        image: name of the image in the engine's store.
        container: the container; it has at least one probe.
        on_end: called once, when the container is gone.
    """

    def __init__(
        self, engine: LocalEngine, image: str, container: Container, on_end: Callable[[], object] = lambda: None
    ) -> None:
        self._engine = engine
        self._image = image
        resources = container.resources
        if engine.weighs_cpu:
            resources = replace(resources, cpu_request_millis=LEAST_CPU_MILLIS)
        # The image's config has the recipe's command, behind the launcher.
        self._container = replace(container, command=(), args=(), env=(*container.env, COLD), resources=resources)
        self._on_end: Callable[[], object] | None = on_end
        self._limit_s = SLOWER * find_limit_s(container)
        self._running: CriContainer | None = None
        self._cancelled = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._observe, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the application was ready, and the container is gone.

        Raises:
            VerifyError: it did not start, or the launcher restored it.
        """
        self.close()
        if isinstance(self._error, WarmstartError):
            brief = f"the image did not start cold: {self._error.brief}"
            raise VerifyError(brief, details=self._error.details, hint=self._error.hint) from self._error
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """End the container, and wait until it is gone."""
        self._cancelled = True
        if self._thread.is_alive() and self._running is not None:
            with contextlib.suppress(WarmstartError):
                self._running.engine.kill_container(self._running.container_id)
        self.close()

    def close(self) -> None:
        """Wait until the container is gone."""
        self._thread.join()
        on_end, self._on_end = self._on_end, None
        if on_end:
            on_end()

    def _observe(self) -> None:
        try:
            with self._engine.cri.start(self._container, self._image, NAME) as running:
                self._running = running
                if not self._cancelled:
                    wait_first_success(running, first_probe(self._container), limit_s=self._limit_s)
                    check_started_cold(running)
        except BaseException as error:
            self._error = error


@contextlib.contextmanager
def observe_cold_start(
    engine: LocalEngine, image: str, container: Container, on_end: Callable[[], object] = lambda: None
) -> Iterator[ColdStart]:
    """Start a container cold; it is gone when the block ends.

    Arguments as for `ColdStart`.
    """
    cold = ColdStart(engine, image, container, on_end)
    try:
        yield cold
    finally:
        cold.cancel()
