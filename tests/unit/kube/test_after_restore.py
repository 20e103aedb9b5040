"""The recipe's steps after a restore, as the pod's hook or as a warning."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace

import pytest

from warmstart.core.errors import ManifestError
from warmstart.kube.after_restore import make_post_start
from warmstart.kube.manifests import make_manifests, make_pod_spec, make_whole_patch
from warmstart.kube.match import find_changes
from warmstart.kube.mismatch import list_warnings
from warmstart.kube.settings import BuildInfo

REQUEST = {"httpGet": {"path": "/refresh", "port": "http"}, "timeoutSeconds": 5}
COMMAND = {"exec": {"command": ["refresh", "$(MODE) $(APP_PID)"]}}
SIGNAL = {"signal": "SIGUSR2"}
ENV = [
    {"name": "MODE", "value": "it's"},
    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
]


def after(*steps: dict, restorers=("runtime",)) -> BuildInfo:
    return BuildInfo("shop", "shop:1", {"image": "x", "env": ENV}, restorers, after_restore=steps)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((REQUEST,), {"httpGet": REQUEST["httpGet"]}),
        (({"httpGet": {"port": 80, "method": "get"}},), {"httpGet": {"port": 80}}),
        ((COMMAND,), {"exec": {"command": ["refresh", "$(MODE) 1"]}}),
        ((SIGNAL,), {"exec": {"command": ["sh", "-c", "kill -s USR2 1"]}}),
    ],
)
def test_a_step_is_the_hook_of_the_pod(steps, expected) -> None:
    assert make_post_start(after(*steps)) == expected


def test_commands_and_signals_are_one_command() -> None:
    command = make_post_start(after(COMMAND, SIGNAL, {"exec": {"command": ["a b", "$HOME"]}}))["exec"]["command"]

    assert command[:2] == ["sh", "-c"]
    assert shlex.split(command[2]) == ["refresh", "$(MODE) 1", "&&", "kill", "-s", "USR2", "1", "&&", "a b", "$HOME"]
    steps = [
        {"exec": {"command": ["echo", "a'$HOME"]}},
        {"exec": {"command": ["false"]}},
        {"exec": {"command": ["echo"]}},
    ]
    ran = subprocess.run(make_post_start(after(*steps))["exec"]["command"], capture_output=True, check=False)
    assert (ran.stdout, ran.returncode) == (b"a'$HOME\n", 1)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (({"httpGet": {"port": 80, "method": "POST"}},), "sends only GET, and the recipe says POST"),
        ((REQUEST, SIGNAL), "one request, or commands and signals"),
    ],
)
def test_steps_that_a_pod_cannot_do_are_an_error(steps, why) -> None:
    build = after(*steps)
    with pytest.raises(ManifestError, match=why) as caught:
        find_changes(build, {}, {"name": "shop"})
    assert "lifecycle.postStart of your own" in caught.value.hint
    with pytest.raises(ManifestError, match=why):
        make_manifests(build, "shop")
    # The way out.
    own = {"name": "shop", "lifecycle": {"postStart": {"exec": {"command": ["mine"]}}}}
    assert not any("lifecycle" in one.keys for one in find_changes(build, {}, own))
    make_pod_spec(build)


def test_a_pod_keeps_a_hook_of_its_own() -> None:
    own = {"name": "shop", "lifecycle": {"postStart": {"exec": {"command": ["mine"]}}}}
    assert any(one.startswith("lifecycle.postStart: kept") for one in list_warnings(after(SIGNAL), {}, own))
    assert not any("postStart" in one for one in list_warnings(after(), {}, own))
    other = {"name": "shop", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}
    (change,) = [one for one in find_changes(after(SIGNAL), {}, other) if one.keys[0] == "lifecycle"]
    assert change.keys == ("lifecycle", "postStart")


@pytest.mark.parametrize("steps", [(SIGNAL,), (REQUEST, SIGNAL), ({"httpGet": {"port": 80, "method": "POST"}},)])
def test_the_hook_of_an_image_with_a_launcher_leaves_it_to_the_launcher(steps) -> None:
    build = after(*steps, restorers=("runtime", "self"))
    hook = {"exec": {"command": ["/.warmstart/launcher", "steps"]}}
    (change,) = [one for one in find_changes(build, {}, {"name": "shop"}) if one.keys[0] == "lifecycle"]
    assert (change.keys, change.value) == (("lifecycle", "postStart"), hook)
    container = make_manifests(build, "shop")[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["lifecycle"] == {"postStart": hook}
    assert not any("afterRestore" in one for one in list_warnings(build, {}, container))


def test_a_hook_of_the_pod_must_ask_the_launcher() -> None:
    build = after(SIGNAL, restorers=("runtime", "self"))
    own = {"name": "shop", "lifecycle": {"postStart": {"exec": {"command": ["mine"]}}}}
    assert any("it must also run `/.warmstart/launcher steps`" in one for one in list_warnings(build, {}, own))
    both = {"postStart": {"exec": {"command": ["sh", "-c", "mine && /.warmstart/launcher steps"]}}}
    assert not any("postStart" in one for one in list_warnings(build, {}, {"name": "shop", "lifecycle": both}))


def test_an_image_that_only_restores_itself_needs_no_hook() -> None:
    build = after(SIGNAL, restorers=("self",))
    assert not any("lifecycle" in one.keys for one in find_changes(build, {}, {"name": "shop"}))
    assert "lifecycle" not in make_manifests(build, "shop")[0]["spec"]["template"]["spec"]["containers"][0]
    assert not any("Restore" in one or "postStart" in one for one in list_warnings(build, {}, {"name": "shop"}))


def test_what_is_made_anew_has_the_hook() -> None:
    build = replace(after(SIGNAL), container={"image": "x", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}})
    for pod in (
        make_manifests(build, "shop")[0]["spec"]["template"]["spec"],
        make_whole_patch(build, "shop")["spec"]["template"]["spec"],
    ):
        assert pod["containers"][0]["lifecycle"]["postStart"] == make_post_start(build)
