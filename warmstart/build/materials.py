"""The tools of a build as resource descriptors of in-toto: packages and programs, each by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import warmstart
from warmstart.build.context import BuildContext
from warmstart.core.errors import HostError
from warmstart.node.launcher import launcher_path
from warmstart.node.packages import find_architecture
from warmstart.node.record import Record, read_record
from warmstart.node.tree import tree_path
from warmstart.node.trust import MANIFEST


def list_materials(context: BuildContext, *, launcher: bool) -> Iterator[dict[str, Any]]:
    """Yield warmstart's own code, the tools and their packages, and the launcher if the image has it.

    A directory has the digest of its list of files, which has the digest of each.
    """
    if context.inputs is not None:
        own = {"name": "warmstart", "uri": f"pkg:pypi/warmstart@{warmstart.__version__}"}
        yield own | {"digest": {"sha256": context.inputs.code}}
    directories = [("tools", tree_path(context.options.cache))]
    if launcher:
        directories.append(("launcher", launcher_path(context.options.cache)))
    for name, directory in directories:
        try:
            digest = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
            record = read_record(directory)
        except (OSError, HostError):  # removed or updated in the meantime
            continue
        yield {"name": name, "digest": {"sha256": digest}, "annotations": dict(record.programs)}
        yield from _list_packages(record)


def _list_packages(record: Record) -> Iterator[dict[str, Any]]:
    for package in record.packages:
        uri = f"pkg:deb/debian/{package.name}@{package.version}?arch={find_architecture()}"
        yield {"name": package.name, "uri": uri, "digest": {"sha256": package.sha256}}
