"""Makes the model of a document that has been found to be a valid recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from warmstart.core.age import parse_duration
from warmstart.core.privileges import name_capability
from warmstart.core.quantity import millicores, whole_bytes
from warmstart.core.reference import parse_reference
from warmstart.core.yaml_document import KeyPath, shown
from warmstart.recipe.checks import needs_self
from warmstart.recipe.model import (
    DEFAULT_HOOKS,
    EVERY,
    Action,
    AllowedSecret,
    Compression,
    Container,
    Exec,
    Grpc,
    Hooks,
    HttpGet,
    InitContainer,
    Lazy,
    Mapped,
    OnDifference,
    OnSecret,
    Port,
    Prepare,
    Probe,
    Recipe,
    Resources,
    Restorer,
    Runtime,
    Secret,
    SecretSearch,
    SecurityContext,
    Service,
    Settled,
    Signal,
    Step,
    TcpSocket,
)
from warmstart.recipe.sources import Block, Report, Sources, list_names
from warmstart.recipe.variables import expand, find_variables
from warmstart.recipe.volumes import Volumes

#: Who restores an image whose recipe does not say.
RESTORERS = (Restorer.RUNTIME, Restorer.SELF)
#: Requests in a batch of a step with `until`: enough for a compiler to notice what is called often.
STEADY_BATCH = 500
STEADY_LIMIT_S = 120


def make_recipe(document: Block, sources: Sources, report: Report) -> Recipe:
    """Make the recipe of a valid document. Absent keys get the model's defaults, and names of ports become numbers.

    Args:
        document: prepared, and checked by the schema.
        sources: answers its references.
        report: takes the path and the message of each problem; the recipe is not to be used then.
    """
    pod = _Pod(document, (), sources, report)
    build = document.get("build", {})
    services = tuple(_service(block, index, sources, report) for index, block in enumerate(build.get("services", [])))
    container = replace(
        pod.container(document["container"], ("container",)), settled=_settled(document.get("build", {}).get("settled"))
    )
    scope = pod.scope
    init = tuple(
        InitContainer(block["name"], pod.container(block, ("initContainers", index)))
        for index, block in enumerate(document.get("initContainers", []))
    )
    late = tuple(document.get("late", []))
    _check_late(late, document["container"], container, report)
    return Recipe(
        name=document["name"],
        container=container,
        image=parse_reference(document["image"]["name"]),
        warmup=tuple(scope.step(step) for step in document.get("warmup", [])),
        before_checkpoint=tuple(scope.step(step) for step in document.get("beforeCheckpoint", [])),
        prepare=Prepare(document.get("prepare", Prepare.NONE)),
        labels=dict(document["image"].get("labels", {})),
        mapped=Mapped(document.get("memory", {}).get("mapped", Mapped.AUTO)),
        compression=Compression(document["image"].get("compression", Compression.FAST)),
        lazy=Lazy(document["image"].get("lazy", Lazy.NONE)),
        max_age=parse_duration(age) if (age := document["image"].get("maxAge")) else None,
        close_tcp=document.get("tcp", "close" if services else "refuse") == "close",
        after_restore=_after_restore(document.get("afterRestore", []), scope),
        restore=tuple(map(Restorer, document.get("restore", RESTORERS))),
        restore_is_default="restore" not in document,
        needs_self=needs_self(document),
        hooks=_hooks(document.get("hooks", DEFAULT_HOOKS)),
        services=services,
        init=init,
        late=late,
        on_difference=OnDifference(document.get("onDifference", OnDifference.COLD)),
        cold_removed=tuple(document.get("coldStart", {}).get("remove", [])),
        secrets=sources.secrets(),
        secret_search=_secret_search(document.get("secrets", {}), sources, container, report),
    )


def _secret_search(block: Block, sources: Sources, container: Container, report: Report) -> SecretSearch:
    known = {secret.name: secret for secret in sources.secrets()}
    known |= {name: Secret(name, value.encode(errors="surrogateescape"), given=True) for name, value in container.env}
    for index, name in enumerate(block.get("real", [])):
        if name not in known:
            names = list_names(known)
            report(("secrets", "real", index), f"expected a key of a Secret or a variable, got {shown(name)}: {names}")
    return SecretSearch(
        OnSecret(block.get("found", OnSecret.AUTO)),
        tuple(known[name] for name in block.get("real", []) if name in known),
        tuple(AllowedSecret(**entry) for entry in block.get("allow", [])),
    )


def _settled(block: Block | None) -> Settled | None:
    if block is None:
        return None
    ports = tuple(block["ports"]) if "ports" in block else None
    return Settled(ports=ports, **_given(block, quiet_s="quietSeconds", timeout_s="timeoutSeconds"))


def _check_late(late: Sequence[str], block: Block, container: Container, report: Report) -> None:
    known = [*dict(container.env), *(variable["name"] for variable in block.get("env", []))]
    for index, name in enumerate(late):
        if name != EVERY and name not in known:
            names = list_names(dict.fromkeys(known))
            report(
                ("late", index), f"expected a variable of container.env or envFrom, got {shown(name)}; it has: {names}"
            )


def _hooks(value: str | list[str]) -> Hooks | tuple[Runtime, ...]:
    return Hooks(value) if isinstance(value, str) else tuple(map(Runtime, value))


def _after_restore(blocks: Any, scope: _Scope) -> tuple[Step | Signal, ...]:
    steps = [blocks] if isinstance(blocks, dict) and blocks else blocks
    # Neither the launcher nor a pod's lifecycle hook expands a reference, and values of the build are not the pod's.
    written = replace(scope, variables=None)
    return tuple(Signal(step["signal"]) if "signal" in step else written.step(step) for step in steps)


def _service(block: Block, index: int, sources: Sources, report: Report) -> Service:
    path: KeyPath = ("build", "services", index)
    pod = _Pod(block, path, sources, report)
    return Service(
        block["name"], pod.container(block["container"], (*path, "container")), tuple(block.get("aliases", []))
    )


def _given(block: Block, **keys: str) -> dict[str, Any]:
    """Of these arguments, each named with its key in the block, those that the block has."""
    return {argument: block[key] for argument, key in keys.items() if key in block}


class _Pod:
    """Makes the containers of a pod, which share its volumes. `scope` is that of the container made last."""

    def __init__(self, block: Block, path: KeyPath, sources: Sources, report: Report) -> None:
        resources = block["container"].get("resources", {})
        self._volumes = Volumes(block.get("volumes", []), (*path, "volumes"), resources, sources, report)
        self._fs_group: int | None = block.get("securityContext", {}).get("fsGroup")
        self._sources = sources
        self._report = report
        self.scope = _Scope({}, {})

    def container(self, block: Block, path: KeyPath) -> Container:
        variables = find_variables(block, self._sources, path, self._report)
        ports = {port["name"]: port["containerPort"] for port in block.get("ports", []) if "name" in port}
        self.scope = scope = _Scope(ports, variables)
        made = _container(block, scope)
        mounts = self._volumes.mounts(block, variables, path)
        return replace(made, volume_mounts=mounts, fs_group=self._fs_group)


def _container(block: Block, scope: _Scope) -> Container:
    return Container(
        image=block["image"],
        command=scope.words(block.get("command", [])),
        args=scope.words(block.get("args", [])),
        env=tuple((scope.variables or {}).items()),
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
        capabilities_add=_capabilities(capabilities.get("add", [])),
        capabilities_drop=_capabilities(capabilities.get("drop", [])),
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


def _capabilities(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(name_capability, names)))


@dataclass(frozen=True)
class _Scope:
    """Names that probes and steps can refer to; `variables` is None where commands stay as they are written."""

    ports: Mapping[str, int]
    variables: Mapping[str, str] | None

    def words(self, words: list[str]) -> tuple[str, ...]:
        return tuple(words if self.variables is None else (expand(word, self.variables) for word in words))

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
        given = _given(block, repeat="repeat", concurrency="concurrency", timeout_s="timeoutSeconds")
        if "until" in block:
            batch = STEADY_BATCH if isinstance(action, HttpGet) else 1
            given = {"repeat": batch, "steady_limit_s": block.get("limitSeconds", STEADY_LIMIT_S), **given}
        return Step(action, **given)

    def _action(self, block: Block) -> Action:
        if "exec" in block:
            written = block["exec"]["command"]
            return Exec(self.words(written), tuple(written))
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
            **_given(block, scheme="scheme", host="host", method="method"),
        )

    def _port(self, block: Block) -> int:
        port: int | str = block["port"]
        return self.ports[port] if isinstance(port, str) else port
