"""An inspection as a JSON document, and as tables for a person.

Text from an archive or an image is untrusted. In the tables everything is printable: characters that control a
terminal or hide others are written as escapes. In the document the text is raw. To print it, have the JSON encoder
escape non-ASCII characters.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from warmstart.build.result import Report
from warmstart.cli.context import HIDDEN
from warmstart.core.age import has_passed
from warmstart.core.errors import ArchiveError
from warmstart.core.text import Section, format_bytes, format_seconds, printable
from warmstart.dump.archive.metadata import Mount, User, load_json
from warmstart.dump.criu.contents import Endpoint, Socket, TcpState
from warmstart.dump.criu.credentials import Credentials
from warmstart.image.annotations import EXPIRES, POD_NOTE, Provenance
from warmstart.image.compose import CREATED_BY
from warmstart.image.secrets.record import make_record
from warmstart.image.signatures.check import Checked
from warmstart.image.signatures.identity import CertificateIdentity
from warmstart.image.signatures.keys import PublicKey
from warmstart.inspect.inspection import CheckpointFacts, ContainerFacts, ContainerLimits, ImageFacts, Inspection, Layer
from warmstart.inspect.trust import list_claims
from warmstart.recipe.pods import hide_values

_PROTOCOLS = {
    socket.IPPROTO_TCP: "TCP",
    socket.IPPROTO_UDP: "UDP",
    socket.IPPROTO_ICMP: "ICMP",
    socket.IPPROTO_ICMPV6: "ICMPv6",
    socket.IPPROTO_UDPLITE: "UDP-Lite",
    socket.IPPROTO_MPTCP: "MPTCP",
}
# Kinds of subjects of the kernel state, and the end of their plural.
_KINDS = {"process": "es", "thread": "s", "descriptor": "s"}
# Limits of the tables.
_LISTED = 10
_DIGEST_CHARS = len("sha256:") + 12
_MADE_CHARS = 60


def list_sections(inspection: Inspection, *, show_env: bool = False) -> tuple[Section, ...]:
    """List the tables for a person, the most important first.

    Args:
        inspection: inspection of an image or archive.
        show_env: whether to show the values of environment variables, possibly secret, and not only their names.
    """
    sections = []
    image, checkpoint = inspection.image, inspection.checkpoint
    if image:
        sections += [
            _section("image", (), _list_image(inspection.name, image, show_env=show_env)),
            _section("layers", ("layer", "size", "format", "of", "made by"), map(_list_layer, image.layers)),
        ]
        if inspection.signatures:
            sections.append(_section("signatures", (), _list_signatures(inspection.signatures)))
        if image.provenance:
            sections.append(_section("edits", (), _list_edits(image.provenance)))
        reports = ("verified", "with", "cold start", "restored start")
        sections.append(_section("reports", reports, map(_list_report, inspection.reports)))
        if inspection.reports_unread:
            sections.append(_section("reports", (), [("not read", inspection.reports_unread)]))
    asked = dict.fromkeys(list_claims(inspection))
    sections.append(_section("asks for", ("privilege", "where"), ((str(one), one.why) for one in asked)))
    if checkpoint:
        sections += [
            _section("container", (), _list_container(checkpoint.container, show_env=show_env)),
            _section("security", (), list_security(checkpoint)),
            _section("checkpoint", (), _list_checkpoint(checkpoint)),
            _section(
                "processes", ("pid", "parent", "name", "threads", "memory", "command"), _list_processes(checkpoint)
            ),
            _section("sockets", ("protocol", "state", "address", "peer"), map(_list_socket, checkpoint.sockets)),
        ]
    else:
        sections.append(_section("checkpoint", (), [("not read", inspection.unread)]))
    return tuple(section for section in sections if section.rows)


def to_document(inspection: Inspection, *, show_env: bool = False) -> dict[str, Any]:
    """Return everything for JSON. Sizes are in bytes, times as in RFC 3339, unknown values null or empty.

    Args:
        inspection: inspection of an image or archive.
        show_env: whether to include possible secrets: the values of environment variables, and the recipe with them.
    """
    image, checkpoint = inspection.image, inspection.checkpoint
    return {
        "name": inspection.name,
        "image": image and _image_document(image, show_env=show_env),
        "checkpoint": checkpoint and _checkpoint_document(checkpoint, show_env=show_env),
        "unread": inspection.unread,
        "asksFor": [{"privilege": str(one), "where": one.why} for one in dict.fromkeys(list_claims(inspection))],
        "reports": [
            {
                "verified": report.verified,
                "runtime": report.runtime,
                "criu": report.criu,
                "kernel": report.kernel,
                "coldStartSeconds": report.cold_s,
                "restoredStartSeconds": list(report.restored_s),
            }
            for report in inspection.reports
        ],
        "reportsUnread": inspection.reports_unread,
        "signatures": inspection.signatures and _signatures_document(inspection.signatures),
    }


def _signatures_document(checked: Checked) -> dict[str, Any]:
    return {
        "keys": [one.source for one in checked.signers if isinstance(one, PublicKey)],
        "identities": [one.source for one in checked.signers if isinstance(one, CertificateIdentity)],
        "statements": [{"predicateType": one.type, "predicate": one.document} for one in checked.statements],
        "others": checked.others,
    }


def _list_signatures(checked: Checked) -> list[tuple[str, str]]:
    rows = [("signed with" if isinstance(one, PublicKey) else "signed by", one.source) for one in checked.signers]
    rows += [("statement", one.type) for one in checked.statements]
    return (
        [*rows, ("other statements", f"{checked.others}, by signers that were not given")] if checked.others else rows
    )


def _section(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Section:
    return Section(title, columns, tuple(tuple(map(printable, row)) for row in rows))


def _list_image(name: str, image: ImageFacts, *, show_env: bool) -> list[tuple[str, str]]:
    made = image.provenance
    added_bytes = image.added_bytes
    rows = [
        ("image", name),
        ("digest", image.digest),
        ("platform", str(image.platform)),
        ("created", image.created),
        ("base image", image.base_name),
        ("base digest", image.base_digest),
        ("restored by", ", ".join(image.restorers)),
        (
            "made with",
            f"warmstart {made.version}, CRIU {made.criu}, {made.runtime}, Linux {made.kernel}" if made else "",
        ),
        ("size", f"{format_bytes(image.size_bytes)} compressed, in {len(image.layers)} layers"),
        ("added", f"{format_bytes(added_bytes)} to the base image" if added_bytes is not None else ""),
        ("secrets", _tell_secrets(image)),
        ("kernel state", _count_subjects(image)),
        *_list_notes(image, show_env=show_env).items(),
    ]
    expired = has_passed(image.notes.get(EXPIRES, ""))
    rows = [(field, f"{value} (has expired)" if field == EXPIRES and expired else value) for field, value in rows]
    return [(field, value) for field, value in rows if value]


def _list_notes(image: ImageFacts, *, show_env: bool) -> dict[str, str]:
    """Return the notes, with hidden values of variables in the pod's manifest. Hide an invalid manifest as a whole."""
    notes = dict(image.notes)
    if POD_NOTE in notes and not show_env:
        try:
            pod = load_json(notes[POD_NOTE].encode(), "pod")
            notes[POD_NOTE] = json.dumps(hide_values(pod, HIDDEN)) if isinstance(pod, dict) else HIDDEN
        except (ArchiveError, ValueError, RecursionError):
            notes[POD_NOTE] = HIDDEN
    return notes


def _tell_secrets(image: ImageFacts) -> str:
    """Describe the record of the secrets of the build; empty if there is none."""
    if image.secrets is None:
        return ""
    return ", ".join(map(str, image.secrets)) or "none of those of its build"


def _count_subjects(image: ImageFacts) -> str:
    """Count the subjects of the kernel state, by kind; empty if it was not recorded."""
    kinds = Counter(subject.partition(" ")[0] for subject in image.state.subjects)
    counts = (f"{kinds[kind]} {kind}{'' if kinds[kind] == 1 else plural}" for kind, plural in _KINDS.items())
    return f"of {', '.join(counts)}: in the output of --json" if image.state else ""


def _list_layer(layer: Layer) -> tuple[str, ...]:
    origin = {True: "warmstart", False: "base image", None: ""}[layer.added]
    made = layer.created_by.removeprefix(CREATED_BY)
    return (
        layer.digest[:_DIGEST_CHARS],
        format_bytes(layer.size_bytes),
        "tar" + layer.media_type.rpartition("tar")[2] if "tar" in layer.media_type else layer.media_type,
        origin,
        made if len(made) <= _MADE_CHARS else f"{made[: _MADE_CHARS - 1]}…",
    )


def _list_report(report: Report) -> tuple[str, ...]:
    return (
        report.verified,
        f"{report.runtime}, CRIU {report.criu}, Linux {report.kernel}",
        format_seconds(report.cold_s),
        ", ".join(map(format_seconds, report.restored_s)),
    )


def _list_edits(provenance: Provenance) -> list[tuple[str, str]]:
    """List all numbers and strings in the record of edits, by any key."""
    edits = _parse_edits(provenance)
    if not isinstance(edits, dict):
        return [("edited", str(edits))] if edits else []
    rows = []
    for key, value in edits.items():
        words = re.sub("(?<=[a-z])(?=[A-Z])", " ", key).lower()
        if key.endswith("Bytes") and isinstance(value, int):
            rows.append((words.removesuffix(" bytes"), format_bytes(value)))
        elif isinstance(value, int | float | str):
            rows.append((words, str(value)))
    return rows


def _list_container(container: ContainerFacts, *, show_env: bool) -> list[tuple[str, str]]:
    rows = [
        ("name", container.name),
        ("command", shlex.join(container.args)),
        ("working directory", container.cwd),
        ("user", _describe_user(container.user)),
        ("root image", container.root_image),
        ("runtime", container.runtime),
        ("created", _timestamp(container.created)),
        ("checkpointed", _timestamp(container.checkpointed)),
        ("mounts to have", ", ".join(map(_describe_mount, container.mounts))),
    ]
    if show_env:
        rows += [("environment", f"{name}={value}") for name, value in container.env]
    else:
        rows.append(("environment", ", ".join(name for name, _ in container.env)))
    return [(field, value) for field, value in rows if value]


def list_security(checkpoint: CheckpointFacts) -> list[tuple[str, str]]:
    """List the privileges of the processes, grouped by equal privileges."""
    rows = []
    if limits := checkpoint.container.limits:
        capabilities = ", ".join(limits.capabilities) or "none"
        rows = [
            ("container", f"capabilities {capabilities}; {_tell_limits(limits.no_new_privs, int(limits.filtered))}"),
            ("AppArmor profile", limits.apparmor),
            ("devices", ", ".join(limits.devices)),
            ("annotations", ", ".join(limits.annotations)),
        ]
    alike: dict[Credentials, list[int]] = {}
    for pid, threads in checkpoint.credentials.items():
        for thread in dict.fromkeys(threads):
            alike.setdefault(thread, []).append(pid)
    for thread, pids in alike.items():
        sets = [f"{kind} {', '.join(names)}" for kind, names in thread.capabilities if names]
        told = [
            f"user {_describe_user(User(thread.uid, thread.gid, thread.groups))}",
            f"capabilities {'; '.join(sets) or 'none'}",
            _tell_limits(thread.no_new_privs, thread.filters),
            *([f"label {thread.lsm}"] if thread.lsm else []),
        ]
        rows.append((f"processes {', '.join(map(str, pids[:_LISTED]))}", "; ".join(told)))
    return [(name, value) for name, value in rows if value]


def _tell_limits(no_new_privs: bool, filters: int) -> str:
    filtered = f"{filters} system call filter{'s' * (filters != 1)}" if filters else "no system call filter"
    return f"no_new_privs {'on' if no_new_privs else 'off'}; {filtered}"


def _list_checkpoint(checkpoint: CheckpointFacts) -> list[tuple[str, str]]:
    diff, deleted = checkpoint.rootfs_diff, checkpoint.deleted_files
    shared = f", {format_bytes(checkpoint.shared_bytes)} of it shared" if checkpoint.shared_bytes else ""
    rows = [
        ("size", format_bytes(checkpoint.size_bytes)),
        ("memory", format_bytes(checkpoint.memory_bytes) + shared),
        ("changed files", f"{diff.entries} entries, {format_bytes(diff.size_bytes)}" if diff else "none"),
    ]
    if checkpoint.closes_tcp:
        rows.append(("TCP connections", "closed in the restored container"))
    if deleted:
        more = f", and {len(deleted) - _LISTED} more" if len(deleted) > _LISTED else ""
        rows.append(("deleted files", ", ".join(deleted[:_LISTED]) + more))
    return rows


def _list_processes(checkpoint: CheckpointFacts) -> Iterable[tuple[str, ...]]:
    for process in checkpoint.processes:
        yield (
            str(process.pid),
            str(process.ppid or ""),
            process.comm,
            str(process.threads),
            format_bytes(process.memory_bytes),
            shlex.join(process.arguments),
        )


def _list_socket(found: Socket) -> tuple[str, ...]:
    return _protocol(found), _state(found), str(found.source), _peer(found.destination)


def _image_document(image: ImageFacts, *, show_env: bool) -> dict[str, Any]:
    return {
        "digest": image.digest,
        "platform": str(image.platform),
        "created": image.created,
        "base": {"name": image.base_name, "digest": image.base_digest},
        "restorers": list(image.restorers),
        "provenance": image.provenance and _provenance_document(image.provenance, show_env=show_env),
        "notes": _list_notes(image, show_env=show_env),
        "secrets": None if image.secrets is None else make_record(image.secrets),
        "kernelState": {subject: dict(facts) for subject, facts in image.state.subjects.items()},
        "sizeBytes": image.size_bytes,
        "addedBytes": image.added_bytes,
        "layers": [
            {
                "digest": layer.digest,
                "mediaType": layer.media_type,
                "sizeBytes": layer.size_bytes,
                "createdBy": layer.created_by,
                "added": layer.added,
            }
            for layer in image.layers
        ],
    }


def _provenance_document(provenance: Provenance, *, show_env: bool) -> dict[str, Any]:
    document = {**asdict(provenance), "edits": _parse_edits(provenance)}
    return {name: value for name, value in document.items() if show_env or name != "recipe"}


def _parse_edits(provenance: Provenance) -> object:
    """Parse the annotation. Return it unchanged if it is not JSON."""
    try:
        return load_json(provenance.edits.encode(), "edits")
    except ArchiveError:
        return provenance.edits


def _checkpoint_document(checkpoint: CheckpointFacts, *, show_env: bool) -> dict[str, Any]:
    return {
        "container": _container_document(checkpoint.container, show_env=show_env),
        "sizeBytes": checkpoint.size_bytes,
        "memoryBytes": checkpoint.memory_bytes,
        "sharedMemoryBytes": checkpoint.shared_bytes,
        "processes": [
            {
                "pid": process.pid,
                "ppid": process.ppid,
                "name": process.comm,
                "args": list(process.arguments),
                "threads": process.threads,
                "memoryBytes": process.memory_bytes,
            }
            for process in checkpoint.processes
        ],
        "sockets": [
            {
                "protocol": _protocol(found),
                "state": _state(found),
                "address": str(found.source),
                "peer": _peer(found.destination),
            }
            for found in checkpoint.sockets
        ],
        "credentials": [
            {"pid": pid, "threads": [_credentials_document(thread) for thread in dict.fromkeys(threads)]}
            for pid, threads in checkpoint.credentials.items()
        ],
        "closesTcp": checkpoint.closes_tcp,
        "rootfsDiff": checkpoint.rootfs_diff
        and {"entries": checkpoint.rootfs_diff.entries, "sizeBytes": checkpoint.rootfs_diff.size_bytes},
        "deletedFiles": list(checkpoint.deleted_files),
    }


def _credentials_document(thread: Credentials) -> dict[str, Any]:
    return {
        "uid": thread.uid,
        "gid": thread.gid,
        "groups": list(thread.groups),
        "root": thread.root,
        "capabilities": {kind: list(names) for kind, names in thread.capabilities},
        "noNewPrivs": thread.no_new_privs,
        "seccompFilters": thread.filters,
        "lsm": thread.lsm,
    }


def _limits_document(limits: ContainerLimits) -> dict[str, Any]:
    return {
        "capabilities": list(limits.capabilities),
        "noNewPrivs": limits.no_new_privs,
        "seccomp": limits.filtered,
        "apparmor": limits.apparmor,
        "devices": list(limits.devices),
        "annotations": list(limits.annotations),
    }


def _container_document(container: ContainerFacts, *, show_env: bool) -> dict[str, Any]:
    return {
        "name": container.name,
        "args": list(container.args),
        "workingDir": container.cwd,
        "user": {"uid": container.user.uid, "gid": container.user.gid, "groups": list(container.user.groups)},
        "env": [{"name": name, "value": value} if show_env else {"name": name} for name, value in container.env],
        "mounts": [
            {"destination": mount.destination, "type": mount.type, "readOnly": _is_read_only(mount)}
            for mount in container.mounts
        ],
        "security": container.limits and _limits_document(container.limits),
        "runtime": container.runtime,
        "rootImage": container.root_image,
        "created": _timestamp(container.created),
        "checkpointed": _timestamp(container.checkpointed),
    }


def _describe_user(user: User) -> str:
    groups = f", groups {', '.join(map(str, user.groups))}" if user.groups else ""
    return f"{user.uid}:{user.gid}{groups}"


def _describe_mount(mount: Mount) -> str:
    return f"{mount.destination} (read-only)" if _is_read_only(mount) else mount.destination


def _is_read_only(mount: Mount) -> bool:
    return "ro" in mount.options


def _timestamp(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""


def _protocol(found: Socket) -> str:
    return _PROTOCOLS.get(found.protocol, str(found.protocol))


def _state(found: Socket) -> str:
    """Return the state of a TCP socket. For others it only tells if they are connected, and so does their peer."""
    if found.protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_MPTCP):
        return ""
    return next((state.name for state in TcpState if state == found.state), str(found.state))


def _peer(endpoint: Endpoint) -> str:
    return str(endpoint) if endpoint.port else ""
