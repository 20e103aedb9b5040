"""A first recipe from a container of a Kubernetes manifest, and the objects that it comes with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.core.errors import ManifestError
from warmstart.core.yaml_document import shown
from warmstart.recipe.init.draft import Draft
from warmstart.recipe.init.inputs import Inputs, read_inputs
from warmstart.recipe.init.kinds import kind_of_image
from warmstart.recipe.init.names import is_image
from warmstart.recipe.init.needs import list_uses, secret_keys, supply
from warmstart.recipe.init.probes import ExposedPorts, Hints, find_hints, is_tcp
from warmstart.recipe.init.service_plan import note_services, plan_services
from warmstart.recipe.init.services import find_needed
from warmstart.recipe.init.text import Proposal, propose
from warmstart.recipe.init.waiting import only_waits, words_of
from warmstart.recipe.load import find_mistakes
from warmstart.recipe.pods import (
    OF_POD,
    Block,
    PodContainer,
    SeveralContainersError,
    blocks_at,
    choose_container,
    list_claims,
    manifest_error,
    mapping_at,
    merge_contexts,
)
from warmstart.recipe.secret_names import find_suspects

# Parts of a pod that make a restored container behave otherwise than the one that was built.
_POD_NOTES = {
    "hostNetwork": "the build has a network of its own, and the restored container must have one too",
    "hostPID": "the build has process ids of its own, and the restored container must have them too",
    "hostIPC": "the build has System V IPC of its own, and the restored container must have it too",
    "shareProcessNamespace": "the build has process ids of its own, and the restored container must have them too",
}
_ACCOUNT_NOTE = (
    "automountServiceAccountToken: set it to false in the pod, since the build has no such mount and the restored "
    "container would not see it"
)
_NODE_SETTINGS = re.compile(r"\bsysctl\b|/proc/sys/|/sys/kernel|\bmodprobe\b|\bulimit\b")
_NETWORK = re.compile(
    r"https?://|\bgit\s+clone\b|\baws\b|\bgsutil\b|\bgcloud\b|\bvault\b|\bpip3? install\b|\bapk add\b"
)
# Pods that end by themselves: a build cannot wait until they rest.
_ENDING = ("Job", "CronJob")
_KNATIVE = "serving.knative.dev/"
_TOKEN_VOLUME = re.compile(r"kube-api-access-[a-z0-9]{5}")


@dataclass(frozen=True)
class InitOptions:
    """How a recipe is made from objects.

    Attributes:
        container: the container's name, as for `choose_container`; None if there is only one.
        directory: where the recipe will be, and its relative paths start.
        exposed: looks up the ports of an image; None to leave images alone.
    """

    container: str | None = None
    directory: Path = Path()
    exposed: ExposedPorts | None = None


def init_from_manifest(path: Path, *, container: str | None = None) -> str:
    """Return a commented recipe for a container of a Kubernetes manifest.

    Args:
        path: a YAML file, a directory of them, or `-`; objects of any kind that has a pod template.
        container: the container's name, as for `choose_container`; needed if there are several.

    Raises:
        ManifestError: a file cannot be read, there is no such container, or several with that name.
    """
    return propose_recipe(read_inputs(path), InitOptions(container)).text


def propose_recipe(inputs: Inputs, options: InitOptions) -> Proposal:
    """Make a first recipe for a container of an input.

    Raises:
        ManifestError: there is no such container, or several with that name.
    """
    found = [
        one
        for each in inputs.objects
        if inputs.chosen is None or inputs.chosen is each.value
        for one in each.containers
    ]
    chosen, passed_over = _choose(found, options.container, inputs)
    owner = inputs.owner_of(chosen)
    is_knative = str(chosen.manifest.get("apiVersion", "")).startswith(_KNATIVE)
    if problems := [problem for problem in owner.problems if not problem.repeats]:
        raise manifest_error(inputs.name, problems)
    draft = Draft(
        chosen.owner or chosen.name,
        f"{shown(chosen.kind)}/{shown(chosen.owner)} in {inputs.name}",
        ManifestError,
        {
            **(_with_port(chosen.block) if is_knative else chosen.block),
            "securityContext": _security_context(chosen.pod, chosen.block),
        },
        Hints((("Knative's PORT", _knative_port(chosen.block)),))
        if is_knative
        else find_hints(chosen, inputs, options.exposed),
        liveness=chosen.block.get("livenessProbe"),
        terse=inputs.from_server,
        settles=chosen.kind not in _ENDING,
        pod_context={key: mapping_at(chosen.pod, "securityContext").get(key) for key in OF_POD},
    )
    for problem in owner.problems:
        label = ".".join(map(str, problem.path[-1:]))
        draft.notes.append(f"{problem.place.label}: {shown(label)} is given twice; the last one counts, as for kubectl")
    draft.notes += [*inputs.notes, *passed_over]
    _drop_token_volume(draft)
    _plan_init(draft, chosen)
    draft.volumes = _volumes(chosen, draft)
    _plan_stand_ins(draft, chosen, inputs, options.directory)
    draft.notes += _pod_notes(chosen)
    proposal = propose(draft)
    if not proposal.to_do and (mistakes := find_mistakes(proposal.text, options.directory)):
        draft.to_do += mistakes
        return propose(draft)
    return proposal


def _choose(found: Sequence[PodContainer], wanted: str | None, inputs: Inputs) -> tuple[PodContainer, list[str]]:
    """Choose the container, and name those that were passed over because they are well-known services."""
    try:
        return choose_container(found, wanted, inputs.name), []
    except SeveralContainersError:
        others = [one for one in found if kind_of_image(str(one.block.get("image", ""))) is None]
        if wanted is not None or len(others) == len(found) or len(others) != 1:
            raise
        names = ", ".join(shown(f"{one.owner}/{one.name}") for one in found if one is not others[0])
        return others[0], [f"not chosen, because they are services for others: {names}; --container chooses one"]


def _security_context(pod: Block, container: Block) -> Any:
    """A container's security context with its pod's words; one that is no mapping stays, so that it is reported."""
    own = container.get("securityContext") or {}
    return merge_contexts(pod, container) if isinstance(own, dict) else own


def _knative_port(container: Block) -> int:
    """Return the port that Knative sends requests to (knative.dev/docs, Runtime contract, "Inbound network")."""
    return next((port["containerPort"] for port in blocks_at(container, "ports") if is_tcp(port)), 8080)


def _with_port(container: Block) -> Block:
    """Return a container with the variable that Knative gives to it."""
    env = container.get("env", [])
    port = {"name": "PORT", "value": str(_knative_port(container))}
    return {**container, "env": [*env, port]} if isinstance(env, list) else container


def _drop_token_volume(draft: Draft) -> None:
    """Leave out the token that the API server mounts into every pod, as a pod read from a cluster has it."""
    mounts = draft.container.get("volumeMounts")
    if isinstance(mounts, list):
        draft.container["volumeMounts"] = [
            mount for mount in mounts
            if not (isinstance(mount, dict) and _TOKEN_VOLUME.fullmatch(str(mount.get("name"))))
        ]  # fmt: skip


def _plan_init(draft: Draft, chosen: PodContainer) -> None:
    """Find the init containers that the build runs, and leave the others out with notes."""
    waiting: list[Block] = []
    for block in blocks_at(chosen.pod, "initContainers"):
        name = shown(str(block.get("name")))
        words = " ".join(words_of(block))
        if block.get("restartPolicy") == "Always":
            draft.notes.append(f"the init container {name}: it is a sidecar, and does not run during a build")
        elif only_waits(block):
            waiting.append(block)
        elif _NODE_SETTINGS.search(words):
            draft.notes.append(f"the init container {name}: it changes the node, and does not run in a build")
        elif not is_image(block.get("image")):
            image = shown(str(block.get("image")))
            draft.to_do.append(f"the init container {name} is left out: {image} is not the name of an image")
        else:
            context = _security_context(chosen.pod, block)
            draft.init.append({**block, **({"securityContext": context} if context else {})})
            if _NETWORK.search(words):
                draft.notes.append(f"the init container {name} may need the network: build with --network outside")
    if waiting:
        names = ", ".join(shown(str(block.get("name"))) for block in waiting)
        draft.notes.append(f"init containers that only wait: {names}; a build waits for its services itself")


def _volumes(chosen: PodContainer, draft: Draft) -> list[Any]:
    """The pod's volumes that its container or an init container mounts; for a StatefulSet, its claims too."""
    mounted = {
        str(mount.get("name")) for block in (draft.container, *draft.init) for mount in blocks_at(block, "volumeMounts")
    }
    volumes = [
        volume if len(volume) > 1 else {**volume, "emptyDir": {}}
        for volume in [*list_claims(chosen.manifest), *blocks_at(chosen.pod, "volumes")]
        if str(volume.get("name")) in mounted
    ]
    names = {str(volume.get("name")) for volume in volumes}
    for block in (draft.container, *draft.init):
        absent = [mount for mount in blocks_at(block, "volumeMounts") if str(mount.get("name")) not in names]
        for mount in absent:
            path, name = shown(str(mount.get("mountPath"))), shown(str(mount.get("name")))
            draft.notes.append(f"the mount {path}: the pod has no volume {name}")
            block["volumeMounts"] = [one for one in block["volumeMounts"] if one is not mount]
    return volumes


def _plan_stand_ins(draft: Draft, chosen: PodContainer, inputs: Inputs, directory: Path) -> None:
    needed = find_needed(chosen, blocks_at(chosen.pod, "initContainers"), inputs)
    uses = [use for block in (draft.container, *draft.init) for use in list_uses(block, draft.volumes)]
    services = plan_services(needed, uses, inputs, directory, draft.container)
    supplies = supply(uses, services.uses, services.bindings, inputs, directory)
    draft.build = {
        key: value
        for key, value in (
            ("objects", [*supplies.objects, *(file for file in services.objects if file not in supplies.objects)]),
            ("secrets", supplies.secrets),
            ("services", services.entries),
        )
        if value
    }
    draft.to_do += [*supplies.to_do, *services.to_do, *_file_keys(draft.container)]
    if inputs.hint and (supplies.absent or services.missing or services.has_proposed):
        draft.notes.append(f"only {inputs.name} was read; {inputs.hint}")
    draft.notes += [*supplies.notes, *services.notes, *note_services(needed)]
    draft.stanzas += services.stanzas_for(draft.container)
    draft.late = list(_differing(draft.container, inputs))
    if suspects := list(find_suspects(draft.container.get("env"))):
        draft.notes.append(
            f"literal values that are probably secrets: {', '.join(map(str, suspects))}. The image will hold them, for "
            "everyone who can pull it: take them from a Secret with secretKeyRef"
        )


def _file_keys(container: Block) -> Iterator[str]:
    for item in blocks_at(container, "env"):
        source = mapping_at(item, "valueFrom", "fileKeyRef")
        if source and source.get("optional") is not True:
            field = "/".join(str(source.get(key)) for key in ("volumeName", "path", "key"))
            yield f"{shown(str(item.get('name')))} is in a file that no build has: give build.fields {shown(field)}"


def _differing(container: Block, inputs: Inputs) -> Iterator[str]:
    """Variables whose values in a pod are not those of the build: of Secrets, and of fields of the pod."""
    for item in blocks_at(container, "envFrom"):
        name = mapping_at(item, "secretRef").get("name")
        prefix = item.get("prefix") if isinstance(item.get("prefix"), str) else ""
        for key in (secret_keys(name, inputs) or []) if isinstance(name, str) else []:
            yield f"{prefix}{key}"
    for item in blocks_at(container, "env"):
        source = mapping_at(item, "valueFrom")
        if isinstance(item.get("name"), str) and ("secretKeyRef" in source or "fieldRef" in source):
            yield item["name"]


def _pod_notes(chosen: PodContainer) -> Iterator[str]:
    others = [
        shown(str(mapping_at(block).get("name", ""))) for block in chosen.pod["containers"] if block is not chosen.block
    ]
    if chosen.kind in ("Job", "CronJob"):
        yield f"a {chosen.kind} ends by itself: a checkpoint helps only if its start is long compared with its work"
    context = mapping_at(chosen.block, "securityContext")
    if context.get("privileged") is True:
        yield "privileged: the build must be allowed it, and the image does not restore itself"
    if others:
        yield f"other containers ({', '.join(others)}): they do not run during a build"
    for key, note in _POD_NOTES.items():
        if chosen.pod.get(key):
            yield f"{key}: {note}"
    if chosen.pod.get("automountServiceAccountToken") is not False:
        yield _ACCOUNT_NOTE
