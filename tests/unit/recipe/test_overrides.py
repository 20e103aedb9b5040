"""Values from the command line in place of those in the file."""

from pathlib import Path

import pytest

from warmstart.core.errors import RecipeError
from warmstart.core.reference import parse_reference
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Recipe, Resources

BASE = """\
apiVersion: warmstart/v1alpha1
name: java-app
container:
  image: localhost/java-app:1.0
  args: [--debug]
  env:
    - {name: MODE, value: prod}
  readinessProbe:
    httpGet: {port: 8080}
image:
  name: registry.example.com:5000/team/java-app:1.0-warm
"""


def load(tmp_path: Path, *overrides: str, tag: str | None = None, text: str = BASE) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, overrides=overrides, tag=tag)


def details(tmp_path: Path, *overrides: str, tag: str | None = None, text: str = BASE) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, *overrides, tag=tag, text=text)
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.details]


def test_strings_are_taken_as_they_are(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "container.image=other:2",
        "container.env[0].value=yes",
        "container.args[0]=--set=a: [b",
        "container.workingDir=/a=b",
    )
    assert recipe.container.image == "other:2"
    assert recipe.container.env == (("MODE", "yes"),)
    assert recipe.container.args == ("--set=a: [b",)
    assert recipe.container.working_dir == "/a=b"


def test_other_values_are_yaml(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "container.readinessProbe.httpGet.port=9090",
        "container.securityContext.privileged=true",
        "container.args=[-a, '8080']",
        "container.env[0]={name: A, value: b}",
        "container.resources.limits={memory: 1Gi, cpu: 0.5}",
    )
    assert recipe.container.readiness_probe is not None
    assert recipe.container.readiness_probe.action.port == 9090  # type: ignore[union-attr]
    assert recipe.container.security_context.privileged
    assert recipe.container.args == ("-a", "8080")
    assert recipe.container.env == (("A", "b"),)
    assert recipe.container.resources == Resources(memory_limit_bytes=2**30, cpu_limit_millis=500)


def test_an_index_after_the_last_appends_and_so_does_none(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "container.args[]=a",
        "container.args[2]=b",
        "container.env[1].name=PORT",
        "container.env[1].value=80",
        "warmup[].exec.command[]=true",
    )
    assert recipe.container.args == ("--debug", "a", "b")
    assert recipe.container.env == (("MODE", "prod"), ("PORT", "80"))
    assert [step.action.command for step in recipe.warmup] == [("true",)]  # type: ignore[union-attr]


def test_a_label_has_the_rest_of_the_path_for_its_name(tmp_path: Path) -> None:
    assert load(tmp_path, "image.labels.org.example.v=1", "image.labels.a[0]=b").labels == {
        "org.example.v": "1",
        "a[0]": "b",
    }


def test_the_last_one_counts_and_the_file_is_not_blamed_for_what_was_replaced(tmp_path: Path) -> None:
    text = BASE.replace("port: 8080", "prot: 8080")
    recipe = load(
        tmp_path, "container.readinessProbe.httpGet={port: 1}", "container.readinessProbe.httpGet.port=2", text=text
    )
    assert recipe.container.readiness_probe is not None
    assert recipe.container.readiness_probe.action.port == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("container.imag=x", "container.imag: unknown key: did you mean image?"),
        (
            "container.readinessProbe.httpGet.port=eighty",
            "container.readinessProbe.httpGet.port: expected an integer from 1 to 65535 or the name of a port, "
            "got 'eighty'; container.ports names none",
        ),
        ("container.ports[0].containerPort=http", "container.ports[0].containerPort: expected an integer from 1 to "
         "65535, got 'http'"),
        ("container.securityContext.privileged=", "container.securityContext.privileged: expected true or false, "
         "got nothing"),
        ("warmup=[", "warmup: expected a list of steps, got '['"),
        ("container.args=[8080]", 'container.args[0]: expected a string, got 8080'),
        ("container.env[0]={name: A, name: B}", "container.env[0].name: given twice, on line 1 and here: delete one"),
        ("container.env[1].value=x", "container.env[1].name: missing: expected a name in printable ASCII without '='"),
        ("container.env[2].name=x", "container.env: expected an index of at most 1, the end of the list, got 2"),
        ("container.args.x=y", 'container.args: expected a mapping to put the value into, got ["--debug"]'),
        ("container[0]=y", "container: expected a list to put the value into, got a mapping with image, args, env, "
         "readinessProbe"),
        ("name.x=y", "name: expected a mapping to put the value into, got 'java-app'"),
        ("container.volumeMounts=x", "container.volumeMounts: expected a list of mounts, got 'x'"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_override(tmp_path: Path, override: str, expected: str) -> None:
    assert details(tmp_path, override) == [f"--set {override}: {expected}"]


@pytest.mark.parametrize(
    "override", ["", "name", "=x", ".name=x", "container..image=x", "container.env[x].name=y", "a[=b"]
)
def test_what_is_no_override(tmp_path: Path, override: str) -> None:
    assert details(tmp_path, override) == [
        f"--set {override}: expected PATH=VALUE, such as container.image=localhost/java-app:1.0 "
        "or container.args[0]=--debug"
    ]


def test_mistakes_of_overrides_come_after_those_of_the_file_and_on_one_line(tmp_path: Path) -> None:
    text = BASE.replace("args", "arsg")
    assert details(tmp_path, "name=a\nb", text=text) == [
        "recipe.yaml:5: container.arsg: unknown key: did you mean args?",
        "--set 'name=a\\nb': name: expected a name of at most 63 lower-case letters, digits and '-', "
        "such as java-app, got 'a\\nb'",
    ]


@pytest.mark.parametrize(
    ("tag", "made"),
    [
        ("v2", "registry.example.com:5000/team/java-app:v2"),
        ("other:v2", "other:v2"),
        ("localhost/other", "localhost/other:latest"),
    ],
)
def test_tag(tmp_path: Path, tag: str, made: str) -> None:
    assert load(tmp_path, tag=tag).image == parse_reference(made)


def test_tag_of_a_name_without_one(tmp_path: Path) -> None:
    text = BASE.replace(":1.0-warm", "")
    assert load(tmp_path, tag="v2", text=text).image == parse_reference("registry.example.com:5000/team/java-app:v2")


def test_a_whole_name_can_stand_for_the_image(tmp_path: Path) -> None:
    text = BASE.partition("image:\n  name: reg")[0]
    assert load(tmp_path, tag="other:v2", text=text).image == parse_reference("other:v2")
    assert details(tmp_path, tag="v2", text=text) == ["recipe.yaml:1: image: missing: expected a mapping with name"]


def test_a_tag_replaces_that_of_an_override(tmp_path: Path) -> None:
    assert load(tmp_path, "image.name=other:v1", tag="v2").image == parse_reference("other:v2")


@pytest.mark.parametrize(("tag", "name"), [("v 2", "registry.example.com:5000/team/java-app:v 2"), (":v2", ":v2")])
def test_a_bad_tag(tmp_path: Path, tag: str, name: str) -> None:
    assert details(tmp_path, tag=tag) == [
        f"--tag {tag}: image.name: expected an image name with a tag, such as "
        f"registry.example.com/team/java-app:1.0-warm, got '{name}'"
    ]
