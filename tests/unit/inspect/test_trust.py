"""What an image claims by its recipe and its checkpoint is run only when its user has said so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.checkpoint_archive import SPEC, entry, tar_of, text
from support.checkpoint_image import ANNOTATIONS, PROVENANCE, checkpoint, make_layout, real_dump, with_credentials

from warmstart.core.errors import ArchiveError, PrivilegeError
from warmstart.core.privileges import ALL, list_refused, parse_privilege
from warmstart.core.reference import Source, Transport
from warmstart.dump.criu import protos
from warmstart.image.annotations import write_provenance
from warmstart.inspect.inspection import inspect_image
from warmstart.inspect.trust import Expected, expect, list_checkpoint_privileges, list_saved_privileges, trust
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Recipe

SYS_ADMIN = 1 << 21
PRIVILEGED = {"privileged": True}


def make_recipe(context: dict | None = None, **container: object) -> dict:
    return {
        "apiVersion": "warmstart/v1alpha1",
        "name": "app",
        "container": {
            "image": "registry.example.com/app:1.0",
            "readinessProbe": {"httpGet": {"port": 8080}},
            "securityContext": context or {},
            **container,
        },
        "image": {"name": "registry.example.com/app:1.0-warm"},
    }


def parse(recipe: dict) -> Recipe:
    return parse_recipe(json.dumps(recipe), "recipe")


@pytest.fixture
def decide(tmp_path: Path) -> Callable[..., Recipe]:
    """Decide on an image with this recipe and these members of its checkpoint."""

    def run(recipe: dict, *allowed: str, own: dict | None = None, dump: dict | None = None, **members: bytes) -> Recipe:
        annotations = {**ANNOTATIONS, **write_provenance(replace(PROVENANCE, recipe=json.dumps(recipe)))}
        layer = tar_of(*checkpoint({**real_dump(), **(dump or {})}, **members))
        layout = make_layout(tmp_path / "image", layer, annotations=annotations)
        judge = trust(tuple(map(parse_privilege, allowed)), None if own is None else parse(own))
        return judge(layout, Source(Transport.OCI, path=layout), parse(recipe))

    return run


def refusal(decide: Callable[..., Recipe], *arguments: object, **options: object) -> set[str]:
    with pytest.raises(PrivilegeError) as caught:
        decide(*arguments, **options)
    return set(caught.value.refused)


def core(**fields: object) -> dict[str, bytes]:
    return {"core-17.img": with_credentials(real_dump()["core-17.img"], **fields)}


def changed_spec(**process: object) -> bytes:
    return text({**SPEC, "process": {**SPEC["process"], **process}})


def test_an_ordinary_image_is_run_by_its_own_recipe(decide) -> None:
    assert decide(make_recipe()).name == "app"


@pytest.mark.parametrize(
    ("context", "refused"),
    [
        (PRIVILEGED, {"privileged"}),
        ({"capabilities": {"add": ["SYS_ADMIN", "KILL"]}}, {"capability=SYS_ADMIN"}),
    ],
)
def test_what_the_recipe_in_an_image_claims_is_refused_unless_it_is_named(decide, tmp_path, context, refused) -> None:
    recipe = make_recipe(context)
    assert refusal(decide, recipe) == refused


def test_what_is_named_is_run(decide) -> None:
    assert decide(make_recipe(PRIVILEGED), "privileged").container.security_context.privileged


def test_a_probe_that_asks_another_host_is_refused(decide) -> None:
    probe = {"readinessProbe": {"httpGet": {"port": 80, "host": "169.254.169.254"}}}
    assert refusal(decide, make_recipe(**probe)) == {"probe-host=169.254.169.254"}


def test_a_probe_of_a_service_that_asks_another_host_is_refused(decide) -> None:
    probe = {"tcpSocket": {"port": 80, "host": "169.254.169.254"}}
    service = {"name": "db", "container": {"image": "db:1", "readinessProbe": probe}}
    recipe = {**make_recipe(), "build": {"services": [service]}}
    assert refusal(decide, recipe) == {"probe-host=169.254.169.254"}


def test_a_volume_of_the_recipe_may_be_a_mount_of_the_checkpoint(decide) -> None:
    mounts = [{"destination": path, "type": "bind", "source": "/x"} for path in ("/data", "/host")]
    recipe = make_recipe(volumeMounts=[{"name": "data", "mountPath": "/data"}])
    recipe["volumes"] = [{"name": "data", "emptyDir": {}}]
    assert refusal(decide, recipe, **{"spec.dump": text({**SPEC, "mounts": mounts})}) == {"mount=/host"}


SERVICE = {"image": "example.com/redis:1", "readinessProbe": {"tcpSocket": {"port": 6379}}}


@pytest.mark.parametrize(
    ("container", "refused"),
    [
        ({}, set()),
        ({"securityContext": PRIVILEGED}, {"privileged"}),
        ({"image": "containers-storage:localhost/private:1"}, {"image=containers-storage:localhost/private:1"}),
    ],
)
def test_the_services_of_an_image_have_no_more_than_is_allowed(decide, container, refused) -> None:
    service = {"name": "redis", "container": {**SERVICE, **container}}
    recipe = {**make_recipe(), "build": {"services": [service]}}
    if refused:
        assert refusal(decide, recipe) == refused
    else:
        assert decide(recipe).services


def test_the_users_own_recipe_counts_and_not_that_in_the_image(decide) -> None:
    claimed, own = make_recipe(PRIVILEGED), make_recipe({"capabilities": {"add": ["SYS_ADMIN"]}})
    members = {"dump": core(cap_prm=[SYS_ADMIN])}
    recipe = decide(claimed, "capability=SYS_ADMIN", own=own, **members)
    assert recipe.container.security_context.capabilities_add == ("SYS_ADMIN",)
    assert not recipe.container.security_context.privileged


def test_the_users_own_recipe_needs_the_users_word_for_root_on_the_machine(decide) -> None:
    own = make_recipe({"capabilities": {"add": ["SYS_ADMIN"]}})
    assert refusal(decide, make_recipe(), own=own) == {"capability=SYS_ADMIN"}


def test_a_checkpoint_has_no_more_than_the_users_own_recipe(decide) -> None:
    own = make_recipe({"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False})
    refused = refusal(decide, make_recipe(), own=own)
    assert "privilege-escalation" in refused
    assert "capability=CHOWN" in refused


@pytest.mark.parametrize("field", ["cap_eff", "cap_prm", "cap_inh", "cap_bnd", "cap_amb"])
def test_what_a_process_has_is_refused_in_whichever_set_it_is(decide, field) -> None:
    assert refusal(decide, make_recipe(), dump=core(**{field: [SYS_ADMIN, 1 << 8]})) == {
        "capability=SYS_ADMIN",
        "capability=CHECKPOINT_RESTORE",
    }


def test_a_capability_that_nobody_knows_is_refused(decide) -> None:
    assert refusal(decide, make_recipe(), dump=core(cap_eff=[0, 1 << 31])) == {"capability=CAP_63"}


@pytest.mark.parametrize(
    ("label", "refused"),
    [
        (b"unconfined", {"apparmor=Unconfined"}),
        (b"system_u:system_r:spc_t:s0", {"selinux=system_u:system_r:spc_t:s0"}),
    ],
)
def test_a_process_that_no_profile_confines_is_refused(decide, label, refused) -> None:
    assert refusal(decide, make_recipe(), dump=core(lsm_profile=label)) == refused


def without_filter() -> dict[str, bytes]:
    data = real_dump()["core-17.img"]
    message = protos.Core.FromString(data[12:])
    message.thread_core.seccomp_mode = 0
    message.tc.old_seccomp_mode = 0
    packed = message.SerializeToString()
    return {"core-17.img": data[:8] + len(packed).to_bytes(4, "little") + packed}


def test_root_is_refused_where_it_was_to_be_another_user(decide) -> None:
    assert refusal(decide, make_recipe({"runAsUser": 1000})) == {"root"}


def test_a_process_without_a_filter_is_refused(decide) -> None:
    assert refusal(decide, make_recipe(), dump=without_filter()) == {"seccomp=Unconfined"}


@pytest.mark.parametrize(
    ("spec", "refused"),
    [
        (changed_spec(capabilities={"ambient": ["CAP_SYS_PTRACE"]}), {"capability=SYS_PTRACE"}),
        (changed_spec(apparmorProfile="unconfined"), {"apparmor=Unconfined"}),
        (text({**SPEC, "linux": {}}), {"seccomp=Unconfined"}),
        (text({**SPEC, "linux": {**SPEC["linux"], "devices": [{"path": "/dev/kvm"}]}}), {"device=/dev/kvm"}),
        (text({**SPEC, "mounts": [{"destination": "/host", "type": "bind", "source": "/"}]}), {"mount=/host"}),
        (
            text({**SPEC, "annotations": {"io.kubernetes.cri-o.Annotations": '{"cdi.k8s.io/x": "vendor.com/d=1"}'}}),
            {"annotation=cdi.k8s.io/x"},
        ),
    ],
)
def test_what_the_runtime_would_give_is_refused(decide, spec, refused) -> None:
    assert refusal(decide, make_recipe(), **{"spec.dump": spec}) == refused


@pytest.mark.parametrize("name", ["checkpoint/core-17.img", "./checkpoint/pstree.img", "spec.dump", ".wh.spec.dump"])
def test_a_layer_that_changes_the_checkpoint_below_it_is_refused(tmp_path, name) -> None:
    """A runtime sees the layers as one, and only one of them would have been looked at."""
    layout = make_layout(tmp_path / "image", tar_of(*checkpoint()), tar_of(entry(name, b"x")), annotations=ANNOTATIONS)
    with pytest.raises(ArchiveError, match="changes the checkpoint of a layer below it"):
        inspect_image(Source(Transport.OCI, path=layout))


def test_a_saved_checkpoint_is_compared_with_its_pod(tmp_path) -> None:
    layer = tar_of(*checkpoint({**real_dump(), **without_filter()}))
    inspection = inspect_image(
        Source(Transport.OCI, path=make_layout(tmp_path / "image", layer, annotations=ANNOTATIONS))
    )
    assert list_saved_privileges(inspection, {}) == []
    confined = {"seccompProfile": {"type": "RuntimeDefault"}, "capabilities": {"drop": ["KILL"]}}
    assert {str(one) for one in list_saved_privileges(inspection, confined)} == {
        "seccomp=Unconfined",
        "capability=KILL",
    }


def test_privileged_has_the_others_in_it() -> None:
    asked = list(map(parse_privilege, ["capability=BPF", "device=/dev/kvm", "seccomp=Unconfined", "secret=Unconfined"]))
    assert [str(one) for one in list_refused(asked, [parse_privilege("privileged")])] == ["secret=Unconfined"]
    assert [str(one) for one in list_refused(asked, [parse_privilege("capability=ALL")])] == [
        "device=/dev/kvm",
        "seccomp=Unconfined",
        "secret=Unconfined",
    ]


def test_what_is_expected_follows_the_security_context() -> None:
    assert expect({}, filtered=True) == Expected()
    assert expect(PRIVILEGED, filtered=True) == Expected(frozenset({ALL}), filtered=False)
    assert not expect({"runAsNonRoot": True}, filtered=True).root
    assert not expect({"runAsUser": 1000}, filtered=True).root
    context = {"capabilities": {"drop": ["ALL"], "add": ["CAP_BPF"]}, "allowPrivilegeEscalation": False}
    assert expect(context, filtered=False) == Expected(frozenset({"BPF"}), no_new_privs=True, filtered=False)


def test_a_privileged_recipe_of_the_user_allows_all(tmp_path) -> None:
    dump = {
        **real_dump(),
        **core(cap_eff=[SYS_ADMIN]),
    }
    layout = make_layout(tmp_path / "image", tar_of(*checkpoint(dump)), annotations=ANNOTATIONS)
    facts = inspect_image(Source(Transport.OCI, path=layout)).checkpoint
    assert facts is not None
    assert list_checkpoint_privileges(facts, expect(PRIVILEGED, filtered=True)) == []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("evil", "evil is not a privilege"),
        ("privileged=1", "takes no name"),
        ("host-path", "needs a name"),
        ("label=", "needs"),
    ],
)
def test_what_is_no_privilege_is_refused(value, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_privilege(value)
