"""Which requests a benchmark sends."""

from __future__ import annotations

import json

import pytest

from warmstart.bench.result import Load
from warmstart.bench.run import find_traffic
from warmstart.core.errors import RecipeError
from warmstart.recipe.load import parse_recipe

SHOP = {"httpGet": {"port": 8080, "path": "/shop"}}
CART = {"httpGet": {"port": 8080, "path": "/cart"}}
REFRESH = {"httpGet": {"port": 8080, "path": "/refresh", "method": "POST"}}
PROBE = {"httpGet": {"port": 8080, "path": "/ready"}}


def find(warmup, after_restore=(), probe=PROBE) -> list[str]:
    """Return the paths of the requests."""
    document = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "shop",
        "container": {"image": "localhost/shop:1", "readinessProbe": probe},
        "warmup": list(warmup),
        "afterRestore": list(after_restore),
        "restore": ["self"],
        "image": {"name": "localhost/shop:warm"},
    }
    traffic = find_traffic(parse_recipe(json.dumps(document), "recipe"), Load(requests=10))
    return [action.path for action in traffic.actions]


def test_the_requests_of_the_warm_up_are_timed():
    assert find([SHOP, {"exec": {"command": ["true"]}}, CART]) == ["/shop", "/cart"]


def test_those_that_a_restore_does_too_are_rehearsed_only():
    assert find([SHOP, {**REFRESH, "repeat": 10, "until": "steady"}], [REFRESH]) == ["/shop"]
    assert find([REFRESH], [REFRESH]) == ["/ready"]


def test_without_a_request_in_the_warm_up_it_is_the_probe():
    assert find([]) == ["/ready"]
    with pytest.raises(RecipeError, match="has no HTTP request to time"):
        find([], probe={"exec": {"command": ["true"]}})
