"""Makes the model of a document that has been found to be a valid recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.core.quantity import millicores, whole_bytes
from warmstart.core.reference import parse_reference
from warmstart.recipe.model import (
    Action,
    Compression,
    Container,
    Exec,
    Grpc,
    HttpGet,
    Mapped,
    Port,
    Probe,
    Recipe,
    Resources,
    Restorer,
    SecurityContext,
    Signal,
    Step,
    TcpSocket,
)

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")

Block = Mapping[str, Any]


def make_recipe(document: Block, source: Path | None) -> Recipe:
    """The recipe of a valid document. Absent keys get the model's defaults, and names of ports become numbers."""
    container = document["container"]
    scope = _Scope(
        ports={port["name"]: port["containerPort"] for port in container.get("ports", []) if "name" in port},
        variables=_variables(container.get("env", [])),
    )
    return Recipe(
        name=document["name"],
        container=_container(container, scope),
        image=parse_reference(document["image"]["name"]),
        warmup=tuple(scope.step(step) for step in document.get("warmup", [])),
        before_checkpoint=tuple(scope.step(step) for step in document.get("beforeCheckpoint", [])),
        source=source,
        labels=dict(document["image"].get("labels", {})),
        document=json.dumps(document),
        mapped=Mapped(document.get("memory", {}).get("mapped", Mapped.AUTO)),
        compression=Compression(document["image"].get("compression", Compression.FAST)),
        close_tcp=document.get("tcp") == "close",
        after_restore=_after_restore(document.get("afterRestore", {})),
        restore=tuple(map(Restorer, document.get("restore", [Restorer.RUNTIME]))),
    )


def expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with `$(NAME)` replaced by the variable's value and `$$` by `$`; an unknown name is left as it is.

    Kubernetes' rule for command, args and env (third_party/forked/golang/expansion).
    """
    return _REFERENCE.sub(lambda match: "$" if match[1] is None else variables.get(match[1], match[0]), text)


def _variables(env: list[Block]) -> dict[str, str]:
    """The variables in order; a value can refer to those before it."""
    variables: dict[str, str] = {}
    for variable in env:
        variables[variable["name"]] = expand(variable.get("value", ""), variables)
    return variables


def _after_restore(block: Block) -> tuple[Signal, ...]:
    return (Signal(block["signal"]),) if block.get("signal") else ()


def _given(block: Block, **keys: str) -> dict[str, Any]:
    """Of these arguments, each named with its key in the block, those that the block has."""
    return {argument: block[key] for argument, key in keys.items() if key in block}


def _container(block: Block, scope: _Scope) -> Container:
    return Container(
        image=block["image"],
        command=scope.words(block.get("command", [])),
        args=scope.words(block.get("args", [])),
        env=tuple(scope.variables.items()),
        ports=tuple(
            Port(port["containerPort"], **_given(port, name="name", protocol="protocol"))
            for port in block.get("ports", [])
        ),
        resources=_resources(block.get("resources", {})),
        security_context=_security_context(block.get("securityContext", {})),
        readiness_probe=scope.probe(block.get("readinessProbe")),
        startup_probe=scope.probe(block.get("startupProbe")),
        **_given(block, working_dir="workingDir"),
    )


def _resources(block: Block) -> Resources:
    limits, requests = block.get("limits", {}), block.get("requests", {})
    return Resources(
        memory_limit_bytes=whole_bytes(limits["memory"]) if "memory" in limits else None,
        cpu_limit_millis=millicores(limits["cpu"]) if "cpu" in limits else None,
        memory_request_bytes=whole_bytes(requests["memory"]) if "memory" in requests else None,
        cpu_request_millis=millicores(requests["cpu"]) if "cpu" in requests else None,
    )


def _security_context(block: Block) -> SecurityContext:
    capabilities = block.get("capabilities", {})
    return SecurityContext(
        supplemental_groups=tuple(block.get("supplementalGroups", [])),
        capabilities_add=tuple(capabilities.get("add", [])),
        capabilities_drop=tuple(capabilities.get("drop", [])),
        **_given(
            block,
            run_as_user="runAsUser",
            run_as_group="runAsGroup",
            run_as_non_root="runAsNonRoot",
            privileged="privileged",
            read_only_root_filesystem="readOnlyRootFilesystem",
            allow_privilege_escalation="allowPrivilegeEscalation",
        ),
    )


@dataclass(frozen=True)
class _Scope:
    """Names that probes and steps can refer to."""

    ports: Mapping[str, int]
    variables: Mapping[str, str]

    def words(self, words: list[str]) -> tuple[str, ...]:
        return tuple(expand(word, self.variables) for word in words)

    def probe(self, block: Block | None) -> Probe | None:
        if block is None:
            return None
        return Probe(
            self._action(block),
            **_given(
                block,
                initial_delay_s="initialDelaySeconds",
                period_s="periodSeconds",
                timeout_s="timeoutSeconds",
                success_threshold="successThreshold",
                failure_threshold="failureThreshold",
            ),
        )

    def step(self, block: Block) -> Step:
        action = self._action(block)
        assert isinstance(action, HttpGet | Exec)
        return Step(action, **_given(block, repeat="repeat", concurrency="concurrency", timeout_s="timeoutSeconds"))

    def _action(self, block: Block) -> Action:
        if "exec" in block:
            return Exec(self.words(block["exec"]["command"]))
        if "grpc" in block:
            return Grpc(**block["grpc"])
        if "tcpSocket" in block:
            return TcpSocket(self._port(block["tcpSocket"]), **_given(block["tcpSocket"], host="host"))
        return self._http_get(block["httpGet"])

    def _http_get(self, block: Block) -> HttpGet:
        path = block.get("path", "/")
        return HttpGet(
            self._port(block),
            path=path if path.startswith("/") else f"/{path}",
            headers=tuple((header["name"], header["value"]) for header in block.get("httpHeaders", [])),
            **_given(block, scheme="scheme", host="host"),
        )

    def _port(self, block: Block) -> int:
        port: int | str = block["port"]
        return self.ports[port] if isinstance(port, str) else port
