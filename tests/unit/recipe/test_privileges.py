"""Privileges come from the user who runs the command, not from the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmstart.bench import run as bench
from warmstart.bench.result import Load
from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.core.errors import PrivilegeError
from warmstart.core.privileges import Privilege, parse_privilege
from warmstart.core.progress import Progress, SilentListener
from warmstart.pods import build as build_kubernetes
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import SecurityContext
from warmstart.recipe.privileges import FREE_CAPABILITIES, list_host_privileges, require_host_privileges

RECIPE = """\
apiVersion: warmstart/v1alpha1
name: app
container:
  image: oci:nowhere
  securityContext: {capabilities: {add: [SYS_MODULE, CHOWN]}}
  readinessProbe: {httpGet: {port: 8080}}
image: {name: registry.example.com/app:1-warm}
"""
ROOT = SecurityContext(privileged=True, capabilities_add=("SYS_ADMIN", "CHOWN", "cap_bpf"))


def names(context: SecurityContext) -> list[str]:
    return [str(one) for one in list_host_privileges(context)]


def parse(*texts: str) -> tuple[Privilege, ...]:
    return tuple(map(parse_privilege, texts))


def test_what_amounts_to_root_has_a_name():
    assert names(ROOT) == ["privileged", "capability=BPF", "capability=SYS_ADMIN"]
    assert names(SecurityContext(capabilities_add=("ALL",))) == ["capability=ALL"]
    assert names(SecurityContext(capabilities_add=("OF_A_FUTURE_KERNEL",)))
    assert names(SecurityContext(capabilities_add=tuple(FREE_CAPABILITIES))) == []
    assert names(SecurityContext(capabilities_drop=("ALL",))) == []


@pytest.mark.parametrize(
    "allowed",
    [["privileged"], ["privileged", "capability=SYS_ADMIN", "capability=cap_bpf"]],
)
def test_what_the_user_allows_is_allowed(allowed):
    require_host_privileges(ROOT, parse(*allowed))


@pytest.mark.parametrize(
    ("allowed", "missing"),
    [
        ((), "--allow privileged --allow capability=BPF --allow capability=SYS_ADMIN"),
        (("capability=BPF",), "--allow privileged --allow capability=SYS_ADMIN"),
        (("capability=ALL",), "--allow privileged"),
    ],
)
def test_what_the_user_does_not_allow_is_refused_with_the_options_that_would(allowed, missing):
    with pytest.raises(PrivilegeError, match="root on this machine") as caught:
        require_host_privileges(ROOT, parse(*allowed))
    assert caught.value.hint.endswith(f"add: {missing}")


@pytest.mark.parametrize("text", ["", "everything", "capability=", "capability", "privileged=yes", "capability=a b"])
def test_a_privilege_that_there_is_not_is_refused(text):
    with pytest.raises(ValueError, match=r"not a (privilege|capability)|takes no name|needs a name"):
        parse_privilege(text)


COMMANDS = {
    "build": build_image,
    "bench": lambda recipe, options, steps: bench.bench_recipe(recipe, options, Load(1, 0, 0), steps),
    "cluster": lambda recipe, options, steps: build_kubernetes.build_in_cluster(recipe, options, None, steps),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_begins_with_what_is_not_allowed(tmp_path, command):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, options, steps = (
        load_recipe(tmp_path / "recipe.yaml"),
        BuildOptions(Path("/nonexistent")),
        Progress(SilentListener()),
    )
    with pytest.raises(PrivilegeError, match=r"capability=SYS_MODULE$"):
        COMMANDS[command](recipe, options, steps)
