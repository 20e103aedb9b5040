"""What `deploy` says of an image's privileges."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from warmstart.cli.deploy import _judge
from warmstart.core.privileges import Kind, Privilege
from warmstart.inspect.build_info import ImageSummary
from warmstart.kube.settings import BuildInfo
from warmstart.recipe.model import Restorer

ASKED = (Privilege(Kind.CAPABILITY, "NET_ADMIN"), Privilege(Kind.SECRET, "shop-db"), Privilege(Kind.IMAGE, "other"))


@pytest.mark.parametrize(
    ("restorers", "granted"),
    [((Restorer.RUNTIME,), ["NET_ADMIN"]), ((Restorer.RUNTIME, Restorer.SELF), ["NET_ADMIN"]), ((Restorer.SELF,), [])],
)
def test_only_what_a_runtime_restores_is_granted_by_it(restorers, granted):
    warnings: list[str] = []
    shell = SimpleNamespace(progress=lambda: SimpleNamespace(warn=warnings.append))
    known = ImageSummary(BuildInfo("app", "app:1", {}, restorers), privileges=ASKED)
    _judge(shell, known, "app:1", (), anew=False)
    assert len(warnings) == len(granted)
    assert all(name in warning for name, warning in zip(granted, warnings, strict=True))
