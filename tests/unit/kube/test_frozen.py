"""Variables and command lines that a restored container has from the build, compared with a manifest's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmstart.core.errors import ManifestError
from warmstart.core.yaml_document import read_documents
from warmstart.core.yaml_writing import write_yaml
from warmstart.kube.frozen import list_new_warnings
from warmstart.kube.manifests import make_manifests
from warmstart.kube.patch import patch_manifest
from warmstart.kube.settings import BuildInfo
from warmstart.recipe.model import OnDifference

SECRET_VALUE = "hunter2"
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"MODE": "prod", "PORT": "80"}}
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"password": SECRET_VALUE}}


def literal(name: str, value: str) -> dict:
    return {"name": name, "value": value}


def from_key(name: str, kind: str, of: str, key: str, **more: object) -> dict:
    return {"name": name, "valueFrom": {f"{kind}KeyRef": {"name": of, "key": key, **more}}}


def from_field(name: str, path: str) -> dict:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def from_resource(name: str, resource: str) -> dict:
    return {"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": "1Mi"}}}


def make_build(*env: dict, **more: object) -> BuildInfo:
    container = {"image": "x", "env": list(env), "resources": {"limits": {"memory": "512Mi"}}}
    return BuildInfo(
        "shop",
        "registry.example.com/shop:1-warm",
        {**container, **{key: more.pop(key) for key in ("envFrom", "command", "args") if key in more}},
        stand_ins={
            "objects": [CONFIG, {**SECRET, "stringData": {"password": None}}],
            "fields": {"status.podIP": "127.0.0.1"},
        },
        **more,
    )


def deploy(build: BuildInfo, *env: dict, accepted=(), beside=(), **container: object):
    block = {"name": "shop", "image": "x", "env": list(env), **container}
    template = {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [block]}}
    manifest = {"kind": "Deployment", "metadata": {"name": "shop", "namespace": "prod"}, "spec": {"template": template}}
    text = write_yaml(manifest, *beside)
    return patch_manifest(text.encode(), "shop.yaml", None, build, accepted)


def find_pods(text: str) -> list[dict]:
    return [document.value["spec"]["template"]["spec"] for document in read_documents(text, "text")]


def refused(build: BuildInfo, *env: dict, **more: object) -> dict[str, str]:
    """Return the refused names, and why; the file is as long as the place of each in it says."""
    with pytest.raises(ManifestError) as caught:
        deploy(build, *env, **more)
    assert SECRET_VALUE not in f"{caught.value}{caught.value.details}{caught.value.hint}"
    found = {}
    for detail in caught.value.details:
        place, name, why = detail.split(": ", 2)
        assert place.startswith("shop.yaml:")
        assert f"--accept-frozen {name}" in caught.value.hint
        found[name] = why
    # Each can be accepted, and is said then.
    patched = deploy(build, *env, **{**more, "accepted": tuple(found)})
    for name in found:
        assert any(name in warning for warning in patched.warnings), name
    assert deploy(build, *env, **{**more, "accepted": ("*",)}).text == patched.text
    return found


SAME = [
    ((literal("A", "1"),), (literal("A", "1"),)),
    # Of one name, the last counts.
    ((literal("A", "1"),), (literal("A", "0"), literal("A", "1"))),
    ((literal("A", "1"), literal("B", "$(A)2")), (literal("A", "1"), literal("B", "12"))),
    ((literal("A", "$$(B)"),), (literal("A", "$$(B)"),)),
    ((from_resource("A", "limits.memory"),), (from_resource("A", "limits.memory"),)),
    ((from_resource("A", "limits.memory"),), (literal("A", "512"),)),
    ((literal("A", "127.0.0.1"),), (literal("A", "127.0.0.1"),)),
    ((from_key("A", "configMap", "conf", "MODE"),), (literal("A", "prod"),)),
    ((literal("A", "shop"),), (from_field("A", "metadata.labels['app']"),)),
    ((literal("A", "prod"),), (from_field("A", "metadata.namespace"),)),
    ((literal("A", "default"),), (from_field("A", "spec.serviceAccountName"),)),
    # The build's own settings, and those of its pods.
    ((literal("WARMSTART_HOOKS_CALLBACKS", "none"),), (literal("WARMSTART", "off"),)),
]


@pytest.mark.parametrize(("had", "has"), SAME)
def test_equal_values_are_no_difference(had, has) -> None:
    assert not [one for one in deploy(make_build(*had), *has).warnings if one.startswith("env")]


def test_a_pod_needs_no_settings_of_the_build() -> None:
    build = replace(make_build(literal("WARMSTART_HOOKS_CALLBACKS", "none"), literal("A", "1")), restorers=("self",))
    patched = deploy(build)
    assert "value: '1'" in patched.diff or 'value: "1"' in patched.diff
    assert "WARMSTART" not in patched.diff


DIFFERENT = [
    ((literal("A", "1"),), (literal("A", "2"),), "another value"),
    ((), (literal("A", "2"),), "does not have it"),
    ((literal("A", "1"),), (from_key("A", "secret", "db", "password"),), "Secret db"),
    # What a Secret holds is never known.
    ((from_key("A", "secret", "db", "password"),), (from_key("A", "secret", "db", "password"),), "stand-in"),
    ((from_key("A", "secret", "db", "password"),), (literal("A", "1"),), "stand-in"),
    ((from_key("A", "configMap", "conf", "MODE"),), (from_key("A", "configMap", "other", "MODE"),), "ConfigMap other"),
    ((from_key("A", "configMap", "conf", "MODE"),), (from_key("A", "configMap", "conf", "PORT"),), "ConfigMap conf"),
    ((from_field("A", "status.podIP"),), (from_field("A", "status.podIP"),), "field status.podIP"),
    ((from_field("A", "metadata.name"),), (from_field("A", "metadata.name"),), "field metadata.name"),
    ((from_resource("A", "limits.cpu"),), (from_resource("A", "limits.cpu"),), "resource limits.cpu"),
]


@pytest.mark.parametrize(("had", "has", "why"), DIFFERENT)
def test_a_frozen_variable_with_another_value_is_refused(had, has, why) -> None:
    build = make_build(*had)
    found = refused(build, *has)

    assert list(found) == ["A"]
    assert why in found["A"]
    # With both restorers, the runtime may be the one that restores.
    assert refused(replace(build, restorers=("runtime", "self")), *has) == found
    for late in ("A", "*"):
        (said,) = [one for one in deploy(replace(build, late=(late,)), *has).warnings if "env" in one]
        assert said.startswith("late: A: after a restore by the runtime")


@pytest.mark.parametrize(("had", "has", "why"), DIFFERENT)
def test_an_image_that_restores_itself_compares_for_itself(had, has, why) -> None:
    build = replace(make_build(*had), restorers=("self",))

    (cold,) = [one for one in deploy(build, *has).warnings if one.startswith("env: ")]
    if not had:
        assert cold == "env: the recipe does not have A, and a restored application does not see it"
        return
    assert "A; an image that restores itself then starts cold" in cold
    warn = replace(build, on_difference=OnDifference.WARN)
    assert any("A; an image that restores itself keeps the build's" in one for one in deploy(warn, *has).warnings)
    assert not [one for one in deploy(replace(build, late=("A",)), *has).warnings if " A" in one]


def test_what_refers_to_another_value_has_another_value() -> None:
    env = (from_field("IP", "status.podIP"), literal("URL", "http://$(IP)/"))
    build = make_build(*env, late=("IP",), args=["--at", "$(URL)"])

    found = refused(build, *env, args=["--at", "$(URL)"])
    assert found == {
        "URL": "it refers to $(IP), and the build had another value",
        "args": "it refers to $(URL), whose value differs",
    }


def test_a_config_map_in_the_same_file_is_compared() -> None:
    env = (from_key("MODE", "configMap", "conf", "MODE"), from_key("X", "configMap", "conf", "X", optional=True))
    build = make_build(env[0])

    assert not [one for one in deploy(build, *env, beside=[CONFIG]).warnings if "env" in one]
    changed = {**CONFIG, "data": {"MODE": "test"}}
    assert refused(build, *env, beside=[changed]) == {"MODE": "the build had another value (from the ConfigMap conf)"}
    assert refused(build, *env, beside=[{"kind": "List", "items": [changed]}]).keys() == {"MODE"}


def test_a_config_map_that_is_elsewhere_is_said() -> None:
    env = (from_key("MODE", "configMap", "conf", "MODE"),)
    patched = deploy(make_build(*env), *env)

    (said,) = [one for one in patched.warnings if one.startswith("env")]
    assert "the ConfigMap conf had for the build: MODE" in said


def test_an_optional_config_map_that_nobody_has_is_said() -> None:
    env = (from_key("LEVEL", "configMap", "none", "LEVEL", optional=True),)
    (said,) = [one for one in deploy(make_build(*env), *env).warnings if one.startswith("env")]
    assert "the ConfigMap none had for the build: LEVEL" in said


def test_objects_in_env_from() -> None:
    sources = [{"configMapRef": {"name": "conf"}}, {"prefix": "DB_", "secretRef": {"name": "db"}}]
    build = make_build(envFrom=sources)

    assert refused(build, envFrom=sources).keys() == {"DB_password"}
    (said,) = [one for one in deploy(replace(build, late=("DB_password",)), envFrom=sources).warnings if "conf" in one]
    assert said.endswith("MODE, PORT")
    # What comes later counts, and env before envFrom.
    assert not [
        one
        for one in deploy(
            build,
            literal("MODE", "prod"),
            literal("PORT", "80"),
            literal("DB_password", "x"),
            envFrom=sources,
            accepted=("*",),
        ).warnings
        if "conf" in one
    ]
    unknown = [{"secretRef": {"name": "other"}}]
    assert refused(build, envFrom=unknown) == {"other": "from the Secret other, whose keys the recipe does not have"}


def test_secrets_in_the_file_are_not_read() -> None:
    env = (from_key("PASSWORD", "secret", "db", "password"),)
    refused(make_build(literal("PASSWORD", SECRET_VALUE)), *env, beside=[SECRET])


def test_values_are_not_shown() -> None:
    refused(make_build(literal("A", "other")), literal("A", SECRET_VALUE))
    patched = deploy(make_build(literal("A", "o"), restorers=("self",)), literal("A", SECRET_VALUE))
    assert SECRET_VALUE not in "".join(patched.warnings)


def test_variables_that_only_the_build_has_are_said() -> None:
    build = make_build(literal("TOOL", "1"))

    assert "env: a restored container has variables that this pod lacks: TOOL" in deploy(build).warnings
    assert "TOOL" not in deploy(build).text
    assert not any("TOOL" in one for one in deploy(replace(build, late=("TOOL",))).warnings)


def test_variables_that_only_the_build_has_are_added_for_an_image_that_compares_them() -> None:
    build = make_build(literal("A", "$(B)"), literal("TOOL", "yes"), restorers=("runtime", "self"))
    patched = deploy(build, literal("B", "x"), accepted=("B",))

    (pod,) = find_pods(patched.text)
    assert pod["containers"][0]["env"] == [literal("B", "x"), literal("A", "$(B)"), literal("TOOL", "yes")]
    assert patched.patch["spec"]["template"]["spec"]["containers"][0]["env"] == [
        literal("A", "$(B)"),
        literal("TOOL", "yes"),
    ]
    assert not any("lacks" in one for one in patched.warnings)
    assert (
        deploy(build, literal("A", "$(B)"), literal("TOOL", "yes"), literal("B", "x"), accepted=("B",)).text.count(
            "TOOL"
        )
        == 1
    )
    # What may be a secret, or come from an object of the pod, is not.
    for hidden in (
        make_build(literal("DB_PASSWORD", SECRET_VALUE), restorers=("self",)),
        make_build(literal("TOOL", "(blanked)"), restorers=("self",)),
        make_build(from_key("PASSWORD", "secret", "db", "password"), restorers=("self",)),
    ):
        patched = deploy(hidden)
        assert "lacks" in " ".join(patched.warnings)
        assert (SECRET_VALUE in patched.text, "blanked" in patched.text) == (False, False)
    unknown = [{"secretRef": {"name": "other"}}]
    assert "TOOL" not in deploy(make_build(literal("TOOL", "1"), restorers=("self",)), envFrom=unknown).text


@pytest.mark.parametrize("key", ["command", "args"])
def test_another_command_line_is_refused(key) -> None:
    build = make_build(**{key: ["/app", "--a"]})

    assert not any(key in one for one in deploy(build, **{key: ["/app", "--a"]}).warnings)
    assert refused(build, **{key: ["/app", "--b"]}) == {key: "the build was started with another one"}
    assert any(one.startswith(key) for one in deploy(replace(build, restorers=("self",)), **{key: ["/b"]}).warnings)
    assert any("starts cold" in one for one in deploy(replace(build, restorers=("self",)), args=["/b"]).warnings)


def test_a_new_pod_is_compared_too() -> None:
    env = (from_key("PASSWORD", "secret", "db", "password"), from_key("MODE", "configMap", "conf", "MODE"))
    build = make_build(*env, literal("A", "1"), late=("LATE",), after_restore=({"signal": "SIGHUP"},))
    said = list(list_new_warnings(build, make_manifests(build, "shop")))
    assert [one.rpartition(": ")[2] for one in said] == ["PASSWORD", "MODE"]
    plain = make_build(literal("A", "1"), args=["x"])
    assert list(list_new_warnings(plain, make_manifests(plain, "shop"))) == []


def test_a_name_that_is_accepted_in_vain_is_said() -> None:
    assert (
        "--accept-frozen B: no frozen value of that name differs" in deploy(make_build(), accepted=("B", "*")).warnings
    )


def test_odd_manifests_are_no_fault() -> None:
    env = [
        None,
        {"name": None},
        {"name": "A", "value": 1},
        {"name": "B", "valueFrom": {}},
        {"name": "C", "valueFrom": 1},
    ]
    deploy(make_build(), accepted=("*",), env=env, envFrom=[None, {}, {"configMapRef": {}}], command="x", args=[1])
    deploy(make_build(), accepted=("*",), env={}, envFrom={}, command={}, args={})
