"""What a service account must be allowed, task by task: manifests that an administrator can read and apply."""

from __future__ import annotations

from importlib.resources import files

#: Tasks that there is a manifest for.
TASKS = ("checkpoint", "build", "save", "migrate", "doctor")


def read_role(task: str) -> str:
    """The manifest for a task: a namespace for its pods, a service account, its roles and their bindings."""
    return (files("warmstart.kube") / "roles" / f"{task}.yaml").read_text()
