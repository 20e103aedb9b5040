"""The recipe's steps after a restore as a pod's `lifecycle.postStart`, for a runtime, which runs no steps itself. Pure.

If the image can restore itself too, its launcher knows the steps, and whether it has done them: the hook asks it. Then
nothing is done twice, or after a cold start.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from warmstart.core.errors import ManifestError
from warmstart.image.selfrestore.pack import HOOK
from warmstart.kube.settings import BuildInfo, Setting
from warmstart.recipe.model import PID_REFERENCE
from warmstart.recipe.pods import Block, list_at, mapping_at

_KEYS = ("lifecycle", "postStart")
_REASON = "the recipe's afterRestore; the kubelet runs it after a cold start, too, and ends the container if it fails"
_REASON_OF_HOOK = (
    "the recipe's afterRestore if the runtime restores; it does nothing if the image restores itself or starts cold"
)
# As a runtime starts it, the application is the first process.
_PID = "1"
_INSTEAD = "write a lifecycle.postStart of your own into the manifest, or set `restore: [self]`"


def list_after_restore_changes(build: BuildInfo, container: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield the pod's hook, unless it has one of its own.

    Raises:
        ManifestError: a pod's hook cannot do the steps.
    """
    if build.after_restore and build.by_runtime and not mapping_at(dict(container), *_KEYS):
        yield Setting(_KEYS, make_post_start(build), _REASON_OF_HOOK if build.by_itself else _REASON)


def list_after_restore_warnings(build: BuildInfo, container: Mapping[str, Any]) -> Iterator[str]:
    """Describe steps that the pod's own hook must do, a sentence each."""
    own = mapping_at(dict(container), *_KEYS)
    if not build.after_restore or not build.by_runtime or not own:
        return
    if not build.by_itself:
        yield "lifecycle.postStart: kept; it must also do the recipe's afterRestore, because the runtime does not"
    elif " ".join(HOOK) not in " ".join(map(str, list_at(own, "exec", "command"))):
        command = " ".join(HOOK)
        yield f"lifecycle.postStart: kept; it must also run `{command}`, because the runtime does no afterRestore"


def make_post_start(build: BuildInfo) -> Block:
    """Return the hook: the launcher's, if the image has it; a request as it is; commands and signals as one command.

    Raises:
        ManifestError: a hook cannot do the steps.
    """
    if build.by_itself:
        return {"exec": {"command": [*HOOK]}}
    steps = [dict(step) for step in build.after_restore]
    if len(steps) == 1 and "httpGet" in steps[0]:
        return {"httpGet": _make_request(steps[0]["httpGet"])}
    commands = [_make_command(step) for step in steps]
    if len(commands) == 1 and "exec" in steps[0]:
        return {"exec": {"command": commands[0]}}
    return {"exec": {"command": ["sh", "-c", " && ".join(map(shlex.join, commands))]}}


def _make_request(request: Block) -> Block:
    if str(request.get("method", "GET")).upper() != "GET":
        raise ManifestError(
            f"afterRestore: a pod's postStart sends only GET, and the recipe says {request['method']}", hint=_INSTEAD
        )
    return {key: value for key, value in request.items() if key != "method"}


def _make_command(step: Block) -> list[str]:
    if signal := step.get("signal"):
        return ["kill", "-s", str(signal).removeprefix("SIG"), _PID]
    if "exec" not in step:
        brief = "afterRestore: a pod's postStart does one request, or commands and signals, but not both"
        raise ManifestError(brief, hint=_INSTEAD)
    # As the launcher does, the kubelet replaces no other references in a hook.
    return [str(word).replace(PID_REFERENCE, _PID) for word in mapping_at(step, "exec").get("command") or ()]
