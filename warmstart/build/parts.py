"""The software bill of materials of an image: its base image's Debian packages, and everything that warmstart adds.

Format: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import warmstart
from warmstart.build.context import BuildContext
from warmstart.build.result import BuildResult
from warmstart.core.age import format_time
from warmstart.core.reference import Transport
from warmstart.image.hooks import HOOKS
from warmstart.image.packages import DebianPackage
from warmstart.image.selfrestore.pack import DIRECTORY, restores_itself
from warmstart.node.hooks import find_agents
from warmstart.node.launcher import LauncherPrograms, launcher_path

_CRIU_SOURCE = re.compile(r"criu_([0-9][0-9.]*)\.orig\.tar\.[a-z0-9]+")


def make_bill(built: BuildResult, packages: Sequence[DebianPackage], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the bill of materials of an image, as a JSON object; the same image gives the same but for its time.

    Args:
        built: the result of the build.
        packages: Debian packages of the base image.
        parts: components that the build added.
    """
    digest = built.image.manifest.digest
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": format_time(datetime.now(UTC)),
            "tools": {"components": [_component("application", "warmstart", warmstart.__version__)]},
            "component": _component("container", built.name, digest, **{"bom-ref": digest}),
        },
        "components": [_describe_base(built), *parts, *map(_describe_package, packages)],
    }


def list_parts(context: BuildContext, built: BuildResult) -> list[dict[str, Any]]:
    """List the components that a build added to its base image."""
    parts = [_component("data", "checkpoint", built.provenance.identity, description="Memory of the application.")]
    if restores_itself(built.image.config):
        parts += _list_programs(LauncherPrograms(launcher_path(context.options.cache)))
    if context.hooks is not None:
        files = find_agents(context.hooks.runtimes, context.options.cache, context.progress.note)
        parts += [
            _component("file", f"/{HOOKS}/{name}", warmstart.__version__, hashes=_hash(file))
            for name, file in sorted(files.items())
        ]
    return parts


def _list_programs(programs: LauncherPrograms) -> Iterator[dict[str, Any]]:
    yield _component(
        "application",
        "warmstart-launcher",
        warmstart.__version__,
        licenses=_license("Apache-2.0"),
        hashes=_hash(programs.launcher),
    )
    sources = sorted(programs.source.iterdir())
    version = next((found[1] for file in sources if (found := _CRIU_SOURCE.fullmatch(file.name))), "")
    yield _component(
        "application",
        "criu",
        version,
        purl=f"pkg:generic/criu@{version}",
        licenses=_license("GPL-2.0-only"),
        hashes=_hash(programs.criu),
        # The source is in the image, as its license requires.
        externalReferences=[_describe_source(file) for file in sources],
    )


def _describe_source(file: Path) -> dict[str, Any]:
    url = f"file:///{DIRECTORY}/source/{quote(file.name)}"
    return {"type": "source-distribution", "url": url, "hashes": _hash(file)}


def _describe_base(built: BuildResult) -> dict[str, Any]:
    base = built.base
    name = base.source.label
    if base.source.kind is Transport.REGISTRY and base.source.reference is not None:
        name = base.source.reference.name
    return _component("container", name, base.digest, description="Base image.", **{"bom-ref": f"base@{base.digest}"})


def _describe_package(package: DebianPackage) -> dict[str, Any]:
    version = quote(package.version, safe="")
    purl = f"pkg:deb/{package.distribution}/{quote(package.name, safe='')}@{version}?arch={package.architecture}"
    properties = [{"name": "debian:source", "value": package.source}]
    return _component("library", package.name, package.version, purl=purl, properties=properties, **{"bom-ref": purl})


def _component(kind: str, name: str, version: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "name": name, "version": version, **more}


def _license(name: str) -> list[dict[str, Any]]:
    return [{"license": {"id": name}}]


def _hash(file: Path) -> list[dict[str, str]]:
    with file.open("rb") as content:
        return [{"alg": "SHA-256", "content": hashlib.file_digest(content, "sha256").hexdigest()}]
