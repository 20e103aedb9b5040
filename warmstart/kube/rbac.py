"""Rights of service accounts, by task: manifests that an administrator can read and apply."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from warmstart.core.errors import InputError

#: Tasks with a manifest.
TASKS = ("checkpoint", "build", "save", "migrate", "doctor")

_SEPARATOR = "---\n"
_PROXY = "resources: [nodes/proxy]"
_CHECKPOINT = "resources: [nodes/checkpoint]"
_PROXY_WHY = re.compile(r"  # The kubelet's checkpoint API(?:.*\n  #)*.*\n")
_CHECKPOINT_WHY = "  # The kubelet's checkpoint API, on port 10250 of the nodes, and nothing else of it.\n"
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_BINDING = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: warmstart-{task}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: warmstart-{task}}}
subjects:
  - {{kind: ServiceAccount, name: {task}, namespace: warmstart}}
"""


def read_role(task: str, namespaces: Sequence[str] = (), *, kubelet: bool = False) -> str:
    """Return the manifest for a task: a namespace for its pods, a service account, its roles and their bindings.

    Args:
        task: one of TASKS.
        namespaces: namespaces for the task's access to pods; all if empty.
        kubelet: whether kubelets are asked directly for checkpoints, not through the API server.

    Raises:
        InputError: the task has no such option, or a namespace's name is invalid.
    """
    text = (files("warmstart.kube") / "roles" / f"{task}.yaml").read_text()
    if task == "doctor" and (namespaces or kubelet):
        raise InputError("the pods of `doctor` have a namespace of their own, and it asks no kubelet for anything")
    for namespace in namespaces:
        if not _NAMESPACE.fullmatch(namespace):
            raise InputError(f"{namespace!r:.80} is not the name of a namespace")
    if kubelet:
        text = _PROXY_WHY.sub(_CHECKPOINT_WHY, text).replace(_PROXY, _CHECKPOINT)
    if namespaces:
        *kept, _everywhere = text.split(_SEPARATOR)
        bindings = [_BINDING.format(task=task, namespace=namespace) for namespace in dict.fromkeys(namespaces)]
        text = _SEPARATOR.join([*kept, *bindings])
    return text
