"""Variables of a container: from ConfigMaps, Secrets, fields and resources, and what is missing."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.core.errors import RecipeError
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.model import Exec, Recipe, Secret, Step
from warmstart.recipe.variables import expand, list_references

RECIPE = Path("recipe.yaml")


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def text(container: str, rest: str = "") -> str:
    """A recipe whose container has these lines, from line 5 on."""
    return (
        "apiVersion: warmstart/v1alpha1\nname: shop\ncontainer:\n  image: localhost/shop:1.0\n"
        f"{container}  readinessProbe: {{tcpSocket: {{port: 8080}}}}\n"
        f"image: {{name: registry.example.com/shop:warm}}\n{rest}"
    )


def load(container: str, rest: str = "", secrets: Sequence[str] = ()) -> Recipe:
    RECIPE.write_text(text(container, rest))
    return load_recipe(RECIPE, secrets=secrets)


def env(container: str, rest: str = "", secrets: Sequence[str] = ()) -> dict[str, str]:
    return dict(load(container, rest, secrets).container.env)


def details(container: str, rest: str = "") -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(container, rest)
    return list(caught.value.details)


CONFIG = """\
build:
  objects:
    - kind: ConfigMap
      metadata: {name: conf}
      data: {LEVEL: debug, TEXT: $(LEVEL)}
      binaryData: {BYTES: AAEC}
"""


def test_a_config_map_becomes_variables() -> None:
    found = env("  envFrom: [{configMapRef: {name: conf}}, {configMapRef: {name: conf}, prefix: APP_}]\n", CONFIG)
    # Values of a ConfigMap are literal, and bytes are no variable.
    assert found == {"LEVEL": "debug", "TEXT": "$(LEVEL)", "APP_LEVEL": "debug", "APP_TEXT": "$(LEVEL)"}


def test_a_key_of_a_config_map() -> None:
    lines = "  env: [{name: A, valueFrom: {configMapKeyRef: {name: conf, key: LEVEL}}}, {name: B, value: $(A)!}]\n"
    assert env(lines, CONFIG) == {"A": "debug", "B": "debug!"}


def test_env_comes_after_env_from_and_the_last_of_two_counts() -> None:
    lines = (
        "  envFrom: [{configMapRef: {name: conf}}]\n  env: [{name: LEVEL, value: a}, {name: LEVEL, value: $(LEVEL)b}]\n"
    )
    assert env(lines, CONFIG)["LEVEL"] == "ab"


def test_an_optional_reference_may_be_missing() -> None:
    lines = (
        "  envFrom: [{configMapRef: {name: none, optional: true}}, {secretRef: {name: none, optional: true}}]\n"
        "  env:\n"
        "    - {name: A, valueFrom: {configMapKeyRef: {name: none, key: a, optional: true}}}\n"
        "    - {name: B, valueFrom: {configMapKeyRef: {name: conf, key: a, optional: true}}}\n"
        "    - {name: C, valueFrom: {secretKeyRef: {name: none, key: a, optional: true}}}\n"
        "    - {name: E, valueFrom: {secretKeyRef: {name: known, key: a, optional: true}}}\n"
        "    - {name: D, valueFrom: {fileKeyRef: {volumeName: v, path: f, key: K, optional: true}}}\n"
    )
    recipe = load(lines, CONFIG + "  secrets: {known: {b: x}}\n")
    assert recipe.container.env == ()
    assert recipe.secrets == ()


def test_fields_have_stand_ins_and_the_values_of_the_recipe() -> None:
    paths = ["metadata.name", "metadata.namespace", "status.podIP", "metadata.labels['app']", "spec.nodeName"]
    lines = "  env:\n" + "".join(
        f'    - {{name: V{n}, valueFrom: {{fieldRef: {{fieldPath: "{path}"}}}}}}\n' for n, path in enumerate(paths)
    )
    assert list(env(lines).values()) == ["shop", "default", "127.0.0.1", "", "node"]
    rest = """build: {fields: {status.podIP: 10.0.0.1, "metadata.labels['app']": shop}}\n"""
    assert list(env(lines, rest).values()) == ["shop", "default", "10.0.0.1", "shop", "node"]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("resource: limits.memory", str(512 * 2**20)),
        ("resource: limits.memory, divisor: 1Mi", "512"),
        ("resource: limits.memory, divisor: 1G", "1"),
        ("resource: limits.cpu", "2"),
        ("resource: limits.cpu, divisor: 1m", "1500"),
        ("resource: requests.cpu, divisor: 1m", "250"),
        ("resource: requests.memory, divisor: 1Mi", "512"),
        ("resource: requests.ephemeral-storage", "0"),
        ("resource: limits.memory, divisor: '0'", str(512 * 2**20)),
    ],
)
def test_amounts_of_resources(reference: str, expected: str) -> None:
    lines = (
        "  resources: {limits: {memory: 512Mi, cpu: 1500m}, requests: {cpu: 250m}}\n"
        f"  env: [{{name: A, valueFrom: {{resourceFieldRef: {{{reference}}}}}}}]\n"
    )
    assert env(lines) == {"A": expected}


def test_limits_that_are_not_set_are_those_of_the_machine() -> None:
    found = env("  env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]\n")
    assert found == {"A": str(os.cpu_count())}


SECRET = "  env: [{name: A, valueFrom: {secretKeyRef: {name: db, key: password}}}]\n"


def test_a_secret_has_the_value_of_the_build() -> None:
    recipe = load(SECRET, "build: {secrets: {db: {password: build-only}}}\n")
    assert dict(recipe.container.env) == {"A": "build-only"}
    assert recipe.secrets == (Secret("db.password", b"build-only", given=True),)


@pytest.mark.parametrize("rest", ["", "build: {secrets: {db: {password: }}}\n", "build: {secrets: {db: {user: a}}}\n"])
def test_a_secret_without_a_value_is_made_up_once(rest: str) -> None:
    recipe = load("  command: [$(A)]\n" + SECRET, rest)
    value = dict(recipe.container.env)["A"]
    assert re.fullmatch("[A-Za-z0-9]{24}", value)
    assert recipe.container.command == (value,)
    assert recipe.secrets == (Secret("db.password", value.encode()),)
    assert dict(load(SECRET, rest).container.env)["A"] != value


def test_of_a_secrets_manifest_only_the_keys_are_used() -> None:
    data = "stringData: {user: PRODUCTION}, data: {pass: UFJPRA==}"
    rest = f"build: {{objects: [{{kind: Secret, metadata: {{name: db}}, {data}}}]}}\n"
    recipe = load("  envFrom: [{secretRef: {name: db}, prefix: DB_}]\n", rest)
    assert [name for name, _ in recipe.container.env] == ["DB_pass", "DB_user"]
    assert not {"PRODUCTION", "PROD", "UFJPRA=="} & set(dict(recipe.container.env).values())
    assert "PRODUCTION" not in recipe.document
    assert "UFJPRA" not in recipe.document


def test_a_secret_from_a_file_replaces_the_value_of_the_recipe() -> None:
    Path("password").write_bytes(b"from-a-file")
    found = env(SECRET, "build: {secrets: {db: {password: build-only}}}\n", ["db.password=password"])
    assert found == {"A": "from-a-file"}


def test_a_file_for_one_key_leaves_the_others_to_chance() -> None:
    Path("file").write_bytes(b"value")
    lines = "  env: [{name: A, valueFrom: {secretKeyRef: {name: db, key: a}}}, {name: B, valueFrom: " + (
        "{secretKeyRef: {name: db, key: b}}}]\n"
    )
    found = env(lines, "", ["db.a=file"])
    assert found["A"] == "value"
    assert len(found["B"]) == 24


def test_a_name_and_a_key_with_dots() -> None:
    Path("file").write_bytes(b"value")
    lines = "  env: [{name: A, valueFrom: {secretKeyRef: {name: shop.db, key: tls.key}}}]\n"
    assert env(lines, "", ["shop.db.tls.key=file"]) == {"A": "value"}


@pytest.mark.parametrize("option", ["", "db", "db.password", "db.password=", "db=password", ".x=y", "db.=y", "DB.a=y"])
def test_what_is_no_option_for_a_secret(option: str) -> None:
    with pytest.raises(RecipeError, match="is not understood") as caught:
        load(SECRET, "", [option])
    assert "shop-db.password=password.txt" in caught.value.hint


def test_a_file_of_a_secret_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match=r"^cannot read 'no': No such file or directory$"):
        load(SECRET, "", ["db.password=no"])


def test_a_secret_that_is_no_text_cannot_be_a_variable() -> None:
    Path("file").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError) as caught:
        load(SECRET, "", ["db.password=file"])
    assert caught.value.details == (
        "recipe.yaml:5: container.env[0].valueFrom.secretKeyRef: the value of db.password cannot be a variable: "
        "it is not UTF-8 text without NUL",
    )


def test_everything_that_is_missing_is_one_error_with_the_lines_to_write() -> None:
    lines = (
        "  envFrom:\n"
        "    - configMapRef: {name: conf}\n"
        "    - secretRef: {name: db}\n"
        "  env:\n"
        "    - {name: A, valueFrom: {configMapKeyRef: {name: other, key: LEVEL}}}\n"
        "    - {name: B, valueFrom: {fileKeyRef: {volumeName: v, path: a.env, key: K}}}\n"
    )
    assert details(lines) == [
        "recipe.yaml:6: container.envFrom[0].configMapRef: the ConfigMap conf is not in build.objects",
        "recipe.yaml:7: container.envFrom[1].secretRef: the keys of the Secret db are not known: "
        "name them in build.secrets",
        "recipe.yaml:9: container.env[0].valueFrom.configMapKeyRef: the ConfigMap other, with the key LEVEL, "
        "is not in build.objects",
        "recipe.yaml:10: container.env[1].valueFrom.fileKeyRef: the build cannot read v/a.env/K before the container "
        "starts: give it a value",
        "",
        "build:",
        "  objects:  # or the files that hold them, such as k8s/config.yaml",
        "    - {kind: ConfigMap, metadata: {name: conf}, data: {KEY: VALUE}}",
        "    - {kind: ConfigMap, metadata: {name: other}, data: {LEVEL: VALUE}}",
        "  secrets:  # values for the build only; without a value, one is made up at random",
        "    db: {KEY: null}",
        "  fields:",
        "    v/a.env/K: VALUE",
    ]


def test_the_lines_of_the_error_make_a_recipe() -> None:
    lines = (
        "  envFrom: [{configMapRef: {name: conf}}, {secretRef: {name: db}}]\n"
        "  env: [{name: B, valueFrom: {fileKeyRef: {volumeName: v, path: a.env, key: K}}}]\n"
    )
    found = details(lines)
    stanza = "\n".join(found[found.index("") + 1 :]) + "\n"
    assert set(env(lines, stanza)) == {"KEY", "B"}


def test_a_key_that_its_object_does_not_have() -> None:
    lines = (
        "  env:\n"
        "    - {name: A, valueFrom: {configMapKeyRef: {name: conf, key: LEVL}}}\n"
        "    - {name: B, valueFrom: {secretKeyRef: {name: db, key: pasword}}}\n"
    )
    rest = CONFIG + "    - {kind: Secret, metadata: {name: db}, data: {password: }}\n"
    assert details(lines, rest)[:2] == [
        "recipe.yaml:6: container.env[0].valueFrom.configMapKeyRef: the ConfigMap conf has no key LEVL; "
        "its keys are: LEVEL, TEXT",
        "recipe.yaml:7: container.env[1].valueFrom.secretKeyRef: the Secret db has no key pasword; "
        "its keys are: password",
    ]


def test_value_and_value_from() -> None:
    lines = "  env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]\n"
    assert details(lines) == [
        "recipe.yaml:5: container.env[0].valueFrom: expected nothing, because `value` is given: delete one"
    ]


def test_a_field_that_no_pod_has() -> None:
    lines = "  env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.phase}}}]\n"
    assert details(lines) == [
        "recipe.yaml:5: container.env[0].valueFrom.fieldRef.fieldPath: "
        "expected a field of a pod, such as status.podIP, got 'status.phase'"
    ]


def test_late_variables_are_those_of_the_container() -> None:
    lines = "  env: [{name: A, value: x}, {name: B, valueFrom: {secretKeyRef: {name: db, key: k, optional: true}}}]\n"
    assert load(lines, "late: [A, B]\n").late == ("A", "B")
    assert load(lines, 'late: ["*"]\n').late == ("*",)
    assert details(lines, "late: [C]\n") == [
        "recipe.yaml:8: late[0]: expected a variable of container.env or envFrom, got C; it has: A, B"
    ]


@pytest.mark.parametrize(("key", "line"), [("late: [A]", "late"), ("onDifference: warn", "onDifference")])
def test_a_runtime_cannot_compare(key: str, line: str) -> None:
    lines = "  env: [{name: A, value: x}]\n"
    assert details(lines, f"restore: [runtime]\n{key}\n") == [
        f"recipe.yaml:9: {line}: expected nothing, because `restore` has no self: "
        "a runtime cannot compare the variables of a pod with those of the build"
    ]
    load(lines, f"restore: [self]\n{key}\n")


def test_a_name_that_refers_to_nothing_stays_and_is_warned_of() -> None:
    recipe = load('  env: [{name: A, value: "$(POD_IP):1"}]\n  args: [$$(X), $(Y)]\n')
    assert dict(recipe.container.env) == {"A": "$(POD_IP):1"}
    assert recipe.warnings == (
        "recipe.yaml:5: container.env[0].value: there is no variable POD_IP, so that $(POD_IP) stays as it is",
        "recipe.yaml:6: container.args[1]: there is no variable Y, so that $(Y) stays as it is",
    )


def test_a_literal_that_looks_like_a_secret_is_warned_of_without_its_value() -> None:
    (warning,) = load("  env: [{name: DB_PASSWORD, value: hunter2}]\n").warnings
    assert warning.startswith("recipe.yaml:5: container.env[0].value: the value of DB_PASSWORD is probably a secret")
    assert "hunter2" not in warning


def test_literals_of_other_containers_and_of_config_maps_are_warned_of_too() -> None:
    rest = (
        "build:\n"
        "  objects: [{kind: ConfigMap, metadata: {name: conf}, data: {API_KEY: hunter2, OTHER: a}}]\n"
        "  services: [{name: db, container: {image: i, readinessProbe: {grpc: {port: 1}}, "
        "env: [{name: POSTGRES_PASSWORD, value: hunter2}]}}]\n"
    )
    recipe = load("  args: [--password=hunter2]\n  envFrom: [{configMapRef: {name: conf}}]\n", rest)
    assert [warning.partition(" is probably")[0] for warning in recipe.warnings] == [
        "recipe.yaml:5: container.args[0]: the value",
        "recipe.yaml:11: build.services[0].container.env[0].value: the value of POSTGRES_PASSWORD",
        "recipe.yaml:10: build.objects: API_KEY of the ConfigMap conf",
    ]
    assert "hunter2" not in "".join(recipe.warnings)


def test_what_nothing_uses_is_warned_of() -> None:
    Path("file").write_bytes(b"x")
    recipe = load("", "build: {secrets: {db: {password: a}}, fields: {status.podIP: 10.0.0.1}}\n", ["x.y=file"])
    assert set(recipe.warnings) == {
        "recipe.yaml:7: build.secrets.db.password: nothing in the recipe uses it",
        "recipe.yaml:7: build.fields.status.podIP: nothing in the recipe uses it",
        "--secret x.y: nothing in the recipe uses it",
    }


def test_the_recipe_in_an_image_is_complete_and_holds_no_secret() -> None:
    Path("conf.yaml").write_text("kind: ConfigMap\nmetadata: {name: conf}\ndata: {LEVEL: debug, TEXT: a hunter22 b}\n")
    Path("hook").write_bytes(b"from-a-file")
    lines = (
        "  envFrom: [{configMapRef: {name: conf}}, {secretRef: {name: db}}]\n"
        "  env: [{name: SAME, value: hunter22}, {name: PART, value: -p=hunter22}, {name: NAME, value: shop}]\n"
        "  args: [--hook=from-a-file]\n"
    )
    rest = "build: {objects: [conf.yaml], secrets: {db: {password: hunter22, username: shop, hook: }}}\n"
    recipe = load(lines, rest, ["db.hook=hook"])
    assert dict(recipe.container.env)["SAME"] == "hunter22"
    assert "hunter22" not in recipe.document
    assert "from-a-file" not in recipe.document
    Path("conf.yaml").unlink()
    again = parse_recipe(recipe.document, "the image")
    assert again.document == recipe.document
    assert again.name == "shop"
    found = dict(again.container.env)
    assert (found["LEVEL"], found["NAME"], found["SAME"]) == ("debug", "shop", "(blanked)")
    assert len([warning for warning in recipe.warnings if "is left out of the recipe" in warning]) == 4


def test_two_loads_have_one_document() -> None:
    assert load(SECRET).document == load(SECRET).document


def test_a_recipe_in_an_image_names_no_file() -> None:
    for build in ("objects: [/etc/passwd]", "services: [{name: a, from: /etc/passwd}]"):
        with pytest.raises(RecipeError) as caught:
            parse_recipe(text("", f"build: {{{build}}}\n"), "the image")
        shown = " ".join([caught.value.brief, *caught.value.details])
        assert "names the file /etc/passwd, and this recipe must be complete in itself" in shown


def test_a_recipe_that_names_no_restorer_has_both() -> None:
    recipe = load("")
    assert [str(one) for one in recipe.restore] == ["runtime", "self"]
    assert recipe.restore_is_default
    assert not load("", "restore: [runtime, self]\n").restore_is_default
    # An image of a version that had only the runtime.
    assert [str(one) for one in parse_recipe(text(""), "the image").restore] == ["runtime"]
    privileged = load("  securityContext: {privileged: true}\n")
    assert [str(one) for one in privileged.restore] == ["runtime"]
    assert privileged.warnings == (
        "the image will not restore itself, because container.securityContext.privileged is true",
    )


def test_capabilities_in_any_spelling() -> None:
    recipe = load("  securityContext: {capabilities: {drop: [all], add: [CAP_CHOWN, net_raw, CHOWN]}}\n")
    assert recipe.container.security_context.capabilities_drop == ("ALL",)
    assert recipe.container.security_context.capabilities_add == ("CHOWN", "NET_RAW")
    assert '{"drop": ["ALL"], "add": ["CHOWN", "NET_RAW"]}' in recipe.document


def test_the_runtimes_own_filter_is_accepted_and_no_other() -> None:
    load("  securityContext: {seccompProfile: {type: RuntimeDefault}}\n")
    (line,) = details("  securityContext: {seccompProfile: {type: Unconfined}}\n")
    assert line.startswith(
        "recipe.yaml:5: container.securityContext.seccompProfile.type: expected RuntimeDefault: a build runs"
    )
    lines = details("  securityContext: {seccompProfile: {type: Localhost, localhostProfile: a.json}}\n")
    assert len(lines) == 2
    assert "localhostProfile: not accepted: the filter is a file of the node" in lines[1]


@pytest.mark.parametrize(
    "rest",
    ["late: [A]\n", "onDifference: warn\n"],
)
def test_some_words_need_an_image_that_restores_itself(rest: str) -> None:
    lines = "  env: [{name: A, value: x}]\n"
    assert load(lines, rest).needs_self
    (line,) = details(lines + "  securityContext: {privileged: true}\n", rest)
    assert "expected false, because `late` or `onDifference: warn` needs self" in line
    assert not load(lines).needs_self
    assert not load(lines, "afterRestore: [{exec: {command: [a]}}]\n").needs_self


@pytest.mark.parametrize(
    ("written", "length"),
    [("$(" * 300_000, 600_000), ("$(" * 300_000 + ")", 600_001), ("$$" * 300_000, 300_000), ("$" * 300_001, 150_001)],
)
def test_a_long_text_takes_no_square_of_its_length(written: str, length: int) -> None:
    assert len(expand(written, {})) == length
    assert len(list_references(written)) <= 1


@given(st.text(alphabet="$()ab", max_size=20))
def test_references_are_those_of_the_kubelet(written: str) -> None:
    assert expand(written, {"a": "1", "": "2", "$(b": "3"}) == kubelet(written, {"a": "1", "": "2", "$(b": "3"})


def kubelet(written: str, variables: dict[str, str]) -> str:
    """Expand as third_party/forked/golang/expansion/expand.go does, from left to right."""
    made, at = "", 0
    while at < len(written):
        if written[at] != "$" or at + 1 == len(written):
            made, at = made + written[at], at + 1
        elif written[at + 1] == "$":
            made, at = made + "$", at + 2
        elif written[at + 1] == "(" and ")" in written[at:]:
            end = written.index(")", at)
            name = written[at + 2 : end]
            made, at = made + variables.get(name, f"$({name})"), end + 1
        else:
            made, at = made + written[at], at + 1
    return made


def test_variables_of_variables_cannot_fill_the_memory() -> None:
    doubled = "".join(f"    - {{name: V{n + 1}, value: $(V{n})$(V{n})}}\n" for n in range(60))
    (line, *_) = details("  env:\n    - {name: V0, value: 0123456789abcdef}\n" + doubled)
    assert line == ("recipe.yaml:20: container.env[14]: the value is longer than the 128 KiB that a process can have")
    assert len(expand("$(A)" * 100_000, {"A": "x" * 100_000})) < 400_000


def test_commands_after_a_restore_stay_as_they_are_written() -> None:
    container = "  env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}]\n"
    step = "exec: {command: [a, $(PASSWORD), $$, $(APP_PID)]}"
    secrets = "build: {secrets: {db: {password: build-only}}}\n"
    recipe = load(container, f"{secrets}beforeCheckpoint: [{{{step}}}]\nafterRestore: [{{{step}}}]\n")
    (before,), (after,) = recipe.before_checkpoint, recipe.after_restore
    assert isinstance(after, Step)
    assert (before.action, after.action) == (
        Exec(("a", "build-only", "$", "$(APP_PID)")),
        Exec(("a", "$(PASSWORD)", "$$", "$(APP_PID)")),
    )
    # For messages.
    assert isinstance(before.action, Exec)
    assert before.action.written == ("a", "$(PASSWORD)", "$$", "$(APP_PID)")


@pytest.mark.parametrize("value", ["{password: 4711}", "{password: [4711]}", "'4711'", "{'pass word': '4711'}"])
def test_mistakes_in_secrets_do_not_show_them(value: str) -> None:
    (line,) = details("", f"build: {{secrets: {{db: {value}}}}}\n")
    assert line.startswith("recipe.yaml:")
    assert "4711" not in line
    assert ": expected a " in line


def test_mistakes_in_overrides_of_secrets_do_not_show_them() -> None:
    load("")
    with pytest.raises(RecipeError) as caught:
        load_recipe(RECIPE, overrides=["build.secrets.db.pass word=4711", "build.secrets.mq=4711"])
    assert len(caught.value.details) == 2
    assert all(line.startswith("--set build.secrets.") and "4711" not in line for line in caught.value.details)
