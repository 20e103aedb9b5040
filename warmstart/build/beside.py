"""Start a container with its company: services beside it that it reaches by name, and init containers before it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from warmstart.core.errors import AppError, EngineError
from warmstart.engine.cri import CriContainer, OnCreated
from warmstart.engine.cri_messages import Host
from warmstart.engine.local import LocalEngine
from warmstart.engine.target import State, Target
from warmstart.engine.volumes import PodVolumes
from warmstart.probe.diagnosis import describe_end, read_log_end, settle_state
from warmstart.recipe.model import Container, InitContainer

INIT_S = 1800.0
#: The network of services and init containers.
SUBNET = "10.91.0.0/24"
POLL_S = 0.1
# Of each service, beside an error of the application.
SHOWN_LINES = 5


class ServiceError(AppError):
    """A service or an init container of the recipe failed."""


@dataclass(frozen=True)
class RunningService:
    """A service that is ready: its name, and its container."""

    name: str
    running: Target


@dataclass(frozen=True)
class FetchedInit:
    """An init container, and the name of its image in the engine that runs it."""

    init: InitContainer
    image: str


@dataclass(frozen=True)
class Beside:
    """The company of a container; use `Companions.run`.

    Attributes:
        engine: runs the company; None without any.
        hosts: the names of the services.
        services: the services, ready.
        init: init containers of each pod: those that share volumes with the container.
        cancelled: tells whether nobody waits for the container any more.
    """

    engine: LocalEngine | None = None
    hosts: tuple[Host, ...] = ()
    services: tuple[RunningService, ...] = ()
    init: tuple[FetchedInit, ...] = ()
    cancelled: Callable[[], bool] = lambda: False

    @contextlib.contextmanager
    def start(
        self,
        engine: LocalEngine,
        container: Container,
        image: str,
        name: str,
        on_created: OnCreated = lambda _: None,
    ) -> Iterator[CriContainer]:
        """Run a container in this company, for the length of a `with` block; arguments as for `CriEngine.start`.

        Raises:
            ServiceError: an init container failed, or a service ended while the container ran.
            EngineError: the runtime refused.
        """
        with contextlib.ExitStack() as ended:
            volumes = ended.enter_context(engine.cri.open_volumes()) if self.init else None
            for init in self.init:
                self.run_init(init, volumes)
            with self.explaining():
                opener = engine.cri.start(
                    container, image, name, hosts=self.hosts, volumes=volumes, on_created=on_created
                )
                running = ended.enter_context(opener)
                yield replace(running, watch=self.check) if self.services else running

    def run_init(self, fetched: FetchedInit, volumes: PodVolumes | None) -> None:
        """Run an init container to its end.

        Raises:
            ServiceError: it failed, or did not end.
        """
        assert self.engine is not None
        init, deadline = fetched.init, time.monotonic() + INIT_S
        with (
            naming(f"the init container {init.name}"),
            self.engine.cri.start(
                init.container, fetched.image, init.name, hosts=self.hosts, volumes=volumes
            ) as started,
        ):
            while not (state := started.state()).exited:
                self.check()
                if self.cancelled():
                    raise AppError("was ended")
                if time.monotonic() > deadline:
                    raise AppError(f"still runs after {INIT_S:g} s", details=read_log_end(started))
                time.sleep(POLL_S)
            if state.exit_code:
                hint = "leave it out of build.init if the build does not need it"
                raise AppError(f"failed with {describe_end(state)}", details=read_log_end(started), hint=hint)

    def check(self, look: Callable[[Target], State] = lambda target: target.state()) -> None:
        """Check that all services still run.

        Args:
            look: returns the state of a service.

        Raises:
            ServiceError: one has ended.
        """
        for service in self.services:
            if (state := look(service.running)).exited:
                brief = f"the service {service.name} has ended: {describe_end(state)}"
                hint = "a service must run until the build is done: check the end of its log"
                raise ServiceError(brief, details=read_log_end(service.running), hint=hint)

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Explain an error of the application by its services: one that has ended, or the ends of their logs."""
        try:
            yield
        except ServiceError:
            raise
        except AppError as error:
            self.check(settle_state)
            for service in self.services:
                lines = [f"  {line}" for line in service.running.log_tail(SHOWN_LINES)]
                error.details = (*error.details, f"the end of the log of the service {service.name}:", *lines)
            raise


ALONE = Beside()


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Put a name before the errors of a container.

    Raises:
        ServiceError: in place of the application's errors.
        EngineError: the runtime refused.
    """
    try:
        yield
    except ServiceError:
        raise
    except AppError as error:
        raise ServiceError(f"{what} {error.brief}", details=error.details, hint=error.hint) from error
    except EngineError as error:
        raise EngineError(f"{what.removesuffix(':')}: {error.brief}", details=error.details, hint=error.hint) from error
