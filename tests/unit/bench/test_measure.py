"""How long a container may take to become ready, and the command of a pod that is restored."""

from __future__ import annotations

from warmstart.bench.measure import Way
from warmstart.probe.readiness import find_limit_s
from warmstart.recipe.model import Container, Probe, Restorer, TcpSocket


def test_a_container_may_take_as_long_as_its_probes_allow():
    slow = Probe(TcpSocket(1), initial_delay_s=5, period_s=10, failure_threshold=3)
    quick = Probe(TcpSocket(1), period_s=1, failure_threshold=2)
    assert find_limit_s(Container("image", readiness_probe=slow)) == 35
    assert find_limit_s(Container("image", readiness_probe=quick, startup_probe=slow)) == 37


def test_an_image_that_restores_itself_has_the_command():
    container = Container("image", command=("/server",), args=("--fast",))
    assert Way("cold", "image").prepare(container) == container
    assert Way("mapped", "image", "identity", Restorer.RUNTIME).prepare(container) == container
    assert Way("self", "image", "identity", Restorer.SELF).prepare(container) == Container("image")
