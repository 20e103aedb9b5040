"""The roles: no wider than the documentation says, which says why for each right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from warmstart.core.errors import InputError
from warmstart.kube.rbac import TASKS, read_role

DOCS = Path(__file__).parents[3] / "docs/how-to/kubernetes.md"


def read(task: str, *namespaces: str, kubelet: bool = False) -> list[dict]:
    return list(YAML(typ="safe").load_all(read_role(task, namespaces, kubelet=kubelet)))


def granted(documents: list[dict]) -> set[tuple[str, str]]:
    """Where, and which right; as the bindings have it, since a role that nobody has gives nothing."""
    rules = {(one["kind"], one["metadata"]["name"]): one["rules"] for one in documents if "rules" in one}
    found = set()
    for one in documents:
        if one["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        where = f"namespace `{one['metadata']['namespace']}`" if one["kind"] == "RoleBinding" else "cluster"
        for rule in rules[one["roleRef"]["kind"], one["roleRef"]["name"]]:
            assert rule["apiGroups"] == [""]
            (resource,) = rule["resources"]
            place = "the pods' namespaces" if where == "cluster" and resource.startswith(("pods", "secrets")) else where
            found.add((place, f"{resource}: {', '.join(rule['verbs'])}"))
    return found


def documented() -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {task: set() for task in TASKS}
    table = DOCS.read_text().partition("## Rights")[2].partition("\n\n")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        tasks, where, right, why = (cell.strip() for cell in row.strip("|").split("|"))
        assert why
        for task in tasks.split(", "):
            found[task].add((where, right))
    return found


@pytest.mark.parametrize("task", TASKS)
def test_the_documentation_names_all_rights_of_a_task_and_no_others(task):
    assert documented()[task] == granted(read(task))


@pytest.mark.parametrize("task", TASKS)
def test_no_role_has_a_wildcard_or_may_read_secrets(task):
    text = re.sub("#.*", "", read_role(task))
    assert "*" not in text
    assert {right for _, right in granted(read(task)) if "secrets" in right} <= {"secrets: create"}


@pytest.mark.parametrize("task", TASKS)
def test_each_right_has_a_reason(task):
    assert re.findall(r"^(?!  #).*\n  - apiGroups", read_role(task), re.MULTILINE) == []


@pytest.mark.parametrize("task", TASKS[:-1])
def test_the_rights_hold_in_the_namespaces_that_are_named(task):
    found = granted(read(task, "shop", "builds", "shop"))
    assert not [right for where, right in found if where == "the pods' namespaces"]
    everywhere = {right for where, right in granted(read(task)) if where == "the pods' namespaces"}
    for namespace in ("shop", "builds"):
        assert {right for where, right in found if where == f"namespace `{namespace}`"} == everywhere


@pytest.mark.parametrize("task", TASKS[:-1])
def test_a_kubelet_is_asked_for_checkpoints_only(task):
    found = {right for _, right in granted(read(task, kubelet=True))}
    assert "nodes/checkpoint: create" in found
    assert "proxy" not in read_role(task, kubelet=True)


def test_the_doctors_pods_are_not_where_helpers_are():
    """Who may create pods in the namespace of the helpers may read the disks of the nodes."""
    namespace, *others = read("doctor")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "baseline"}
    assert "warmstart" not in [one["metadata"].get("namespace") for one in others]


@pytest.mark.parametrize("namespace", ["", "a/b", "A", "a\nkind: x", "-a", "a" * 64])
def test_what_is_no_namespace_is_refused(namespace):
    with pytest.raises(InputError, match="is not the name of a namespace"):
        read_role("save", [namespace])


def test_the_doctor_has_nothing_to_choose():
    with pytest.raises(InputError, match="namespace of their own"):
        read_role("doctor", ["shop"])
