"""Services from manifests, init containers, objects: what a recipe makes of them, and what it says of mistakes."""

import json
from pathlib import Path

import pytest

from warmstart.core.errors import RecipeError
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.model import Exec, HttpGet, Probe, Recipe, Signal, Step, TcpSocket, VolumeKind

RECIPE = Path("recipe.yaml")

START = """\
apiVersion: warmstart/v1alpha1
name: shop
container:
  image: localhost/shop:1.0
  readinessProbe: {tcpSocket: {port: 8080}}
image: {name: registry.example.com/shop:warm}
"""

POSTGRES = """\
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: postgres, namespace: shop}
spec:
  serviceName: postgres
  template:
    metadata: {labels: {app: postgres}}
    spec:
      securityContext: {fsGroup: 999, runAsUser: 999, seccompProfile: {type: Unconfined}}
      initContainers: [{name: chown, image: busybox}]
      containers:
        - name: postgres
          image: localhost/postgres:16
          ports: [{containerPort: 5432, name: pg}]
          tty: true
          lifecycle: {postStart: {exec: {command: [x]}}}
          livenessProbe: {exec: {command: [pg_isready]}, initialDelaySeconds: 30, failureThreshold: 3}
          volumeMounts: [{name: data, mountPath: /data}, {name: conf, mountPath: /conf}]
      volumes:
        - {name: unused, hostPath: {path: /}}
        - {name: conf, emptyDir: {}}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {}}]
---
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: postgres}, ports: [{port: 15432, targetPort: pg}]}
---
kind: Service
metadata: {name: postgres}
spec: {selector: {app: postgres}, ports: [{port: 5432}]}
---
kind: Service
metadata: {name: other}
spec: {selector: {app: other}}
"""


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(rest: str) -> Recipe:
    RECIPE.write_text(START + rest)
    return load_recipe(RECIPE)


def details(rest: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(rest)
    return list(caught.value.details) or [caught.value.brief]


def test_a_service_from_a_manifest() -> None:
    Path("k8s").mkdir()
    Path("k8s/postgres.yaml").write_text(POSTGRES)
    recipe = load("build: {services: [{name: postgres, aliases: [own.name], from: k8s/postgres.yaml}]}\n")
    (service,) = recipe.services
    assert service.aliases == (
        "own.name",
        *(f"db{suffix}" for suffix in ("", ".shop", ".shop.svc", ".shop.svc.cluster.local")),
        *(f"postgres{suffix}" for suffix in (".shop", ".shop.svc", ".shop.svc.cluster.local")),
        *(f"postgres-0.postgres{suffix}" for suffix in ("", ".shop", ".shop.svc", ".shop.svc.cluster.local")),
    )
    container = service.container
    assert container.image == "localhost/postgres:16"
    assert (container.fs_group, container.security_context.run_as_user) == (999, 999)
    # Nobody waits for an initial delay, and a slow start is no failure.
    assert container.readiness_probe == Probe(Exec(("pg_isready",)), period_s=1, failure_threshold=120)
    kinds = {mount.path: mount.volume.kind for mount in container.volume_mounts}
    assert kinds == {"/data": VolumeKind.LASTING, "/conf": VolumeKind.EMPTY_DIR}
    assert recipe.warnings == (
        "the Service db maps port 15432 to 5432, and a build does not: connect to port 5432 of postgres",
        "the init containers of the service postgres do not run: chown",
    )
    assert recipe.close_tcp


def test_the_recipe_in_an_image_has_the_container_of_the_service() -> None:
    Path("postgres.yaml").write_text(POSTGRES)
    recipe = load("build: {services: [{name: postgres, from: postgres.yaml}]}\n")
    Path("postgres.yaml").unlink()
    again = parse_recipe(recipe.document, "the image")
    assert (again.services, again.close_tcp, again.document) == (recipe.services, True, recipe.document)


def test_the_services_of_objects_name_a_service_too() -> None:
    workload, *services = POSTGRES.split("---\n")
    Path("workload.yaml").write_text(workload)
    Path("services.yaml").write_text("---\n".join([*services, services[0]]))
    recipe = load("build: {objects: [services.yaml], services: [{name: x, from: workload.yaml}]}\n")
    aliases = recipe.services[0].aliases
    assert "db.shop.svc" in aliases
    assert len(set(aliases)) == len(aliases)
    assert len([warning for warning in recipe.warnings if "15432" in warning]) == 1


def test_a_service_in_the_recipe() -> None:
    recipe = load(
        "build:\n  services:\n    - name: redis\n      container: {image: localhost/redis, readinessProbe: "
        "{tcpSocket: {port: 6379}}, volumeMounts: [{name: d, mountPath: /data}]}\n      volumes: [{name: d}]\n"
        "tcp: refuse\n"
    )
    (service,) = recipe.services
    assert service.container.readiness_probe == Probe(TcpSocket(6379))
    assert service.container.volume_mounts[0].volume.kind is VolumeKind.EMPTY_DIR
    assert not recipe.close_tcp


def test_a_service_without_a_probe_is_tried_at_its_port() -> None:
    manifest = "kind: Pod\nmetadata: {name: a, labels: {a: b}}\nspec: {containers: [{name: c, image: i%s}]}\n"
    Path("one.yaml").write_text(manifest % ", ports: [{containerPort: 53, protocol: UDP}, {containerPort: 6379}]")
    Path("two.yaml").write_text(
        manifest % "" + "---\nkind: Service\nmetadata: {name: a}\nspec: {selector: {a: b}, ports: [{port: 80}]}\n"
    )
    Path("none.yaml").write_text(manifest % "")
    for file, port in (("one.yaml", 6379), ("two.yaml", 80)):
        (service,) = load(f"build: {{services: [{{name: a, from: {file}}}]}}\n").services
        assert service.container.readiness_probe == Probe(TcpSocket(port), period_s=1, failure_threshold=120)
    (line,) = details("build: {services: [{name: a, from: none.yaml}]}\n")
    # The line is the manifest's.
    assert line.startswith("none.yaml:3: build.services[0].container: has no probe that says when the service is ready")


def test_a_mistake_in_a_manifest_has_its_line_there() -> None:
    Path("pg.yaml").write_text(POSTGRES.replace("containerPort: 5432", "containerPort: 0"))
    assert details("build: {services: [{name: a, from: pg.yaml}]}\nnam: x\n") == [
        "recipe.yaml:8: nam: unknown key: did you mean name?",
        "pg.yaml:14: build.services[0].container.ports[0].containerPort: expected an integer from 1 to 65535, got 0",
    ]


TWO = "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: b, image: i}, {name: c, image: j}]}\n"
BAD = {
    "no file": ("services: [{name: a, from: none.yaml}]", "[0].from: cannot read 'none.yaml': No such file"),
    "a directory": ("services: [{name: a, from: .}]", "[0].from: . is a directory"),
    "no YAML": ("services: [{name: a, from: bad.yaml}]", "[0].from: bad.yaml is not valid YAML; bad.yaml:2:1: exp"),
    "two containers": (
        "services: [{name: a, from: two.yaml}]",
        "[0].from: two.yaml has 2 containers to choose from: a/b, a/c; name one of them in `container`",
    ),
    "no such container": (
        "services: [{name: a, from: two.yaml, container: x}]",
        "[0].from: two.yaml has no container named x; its containers are: a/b, a/c",
    ),
    "no workload": (
        "services: [{name: a, from: recipe.yaml}]",
        "[0].from: recipe.yaml has no container",
    ),
    "from and a container": (
        "services: [{name: a, from: two.yaml, container: {image: a, readinessProbe: {grpc: {port: 1}}}}]",
        "[0].container: expected the name of a container, because `from` is given",
    ),
    "a name without from": (
        "services: [{name: a, container: b}]",
        "[0].container: expected a mapping, because `from` is absent",
    ),
    "neither": ("services: [{name: a}]", "[0]: expected a mapping with name, and from or container"),
    "name": ("services: [{name: A, from: one.yaml}]", "[0].name: expected a name of at most 63 lower-case letters"),
    "alias": ("services: [{name: a, aliases: [a_b], from: one.yaml}]", "[0].aliases[0]: expected a host name"),
    "twice": (
        "services: [{name: a, from: one.yaml}, {name: a, from: one.yaml}]",
        "[1].name: a is given twice, in services[0] and here: delete one",
    ),
    "no volume": (
        "services: [{name: a, container: {image: i, volumeMounts: [{name: v, mountPath: /v}], readinessProbe: "
        "{grpc: {port: 1}}}}]",
        "[0].container.volumeMounts[0].name: there is no volume v; volumes has: none",
    ),
    "node's files": (
        "services: [{name: a, container: {image: i, volumeMounts: [{name: v, mountPath: /v}], readinessProbe: "
        "{grpc: {port: 1}}}, volumes: [{name: w}, {name: v, hostPath: {path: /}}]}]",
        "[0].volumes[0].hostPath: not accepted: a build may not read the node's files",
    ),
    "port's name": (
        "services: [{name: a, container: {image: i, readinessProbe: {tcpSocket: {port: x}}}}]",
        "[0].container.readinessProbe.tcpSocket.port: expected an integer from 1 to 65535 or the name of a port, got "
        "'x'; build.services[0].container.ports names none",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "expected"), BAD.values(), ids=BAD.keys())
def test_a_bad_service(build: str, expected: str) -> None:
    Path("two.yaml").write_text(TWO)
    Path("one.yaml").write_text(
        TWO.replace("{name: b, image: i}", "")
        .replace("[, ", "[")
        .replace("image: j", "image: j, readinessProbe: {grpc: {port: 1}}")
    )
    Path("bad.yaml").write_text("a: [\n")
    (line, *_) = details(f"build: {{{build}}}\n")
    assert line.startswith(f"recipe.yaml:7: build.services{expected}")


INIT = """\
initContainers:
  - {name: wait, image: busybox, volumeMounts: [{name: sock, mountPath: /x}], tty: true}
  - {name: second, image: b, env: [{name: A, value: x}], args: [$(A)], volumeMounts: [{name: v, mountPath: /v}]}
  - {name: first, image: localhost/a}
volumes: [{name: sock, hostPath: {path: /}}, {name: v, emptyDir: {}}]
"""


def test_only_the_named_init_containers_run_in_the_order_of_the_pod() -> None:
    recipe = load(INIT + "build: {init: [{container: first}, {container: second}]}\n")
    assert [(one.name, one.container.image) for one in recipe.init] == [
        ("second", "b"),
        ("first", "localhost/a"),
    ]
    assert recipe.init[0].container.args == ("x",)
    assert recipe.init[0].container.volume_mounts[0].volume.name == "v"
    document = json.loads(recipe.document)
    assert [one["name"] for one in document["initContainers"]] == ["second", "first"]
    assert [one["name"] for one in document["volumes"]] == ["v"]
    assert parse_recipe(recipe.document, "the image").init == recipe.init


def test_without_init_none_run() -> None:
    recipe = load(INIT)
    assert recipe.init == ()
    assert json.loads(recipe.document)["initContainers"] == []


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (
            INIT + "build: {init: [{container: third}]}\n",
            "recipe.yaml:12: build.init[0].container: there is no init container third; "
            "initContainers has: wait, second, first",
        ),
        (
            INIT + "build: {init: [{container: first}, {container: first}]}\n",
            "recipe.yaml:12: build.init[1].container: first is given twice, in init[0] and here: delete one",
        ),
        (
            INIT + "build: {init: [{container: wait}]}\n",
            "recipe.yaml:8: initContainers[0].tty: expected false, got true",
        ),
        (
            "initContainers: [{name: a, image: b, restartPolicy: Always}]\nbuild: {init: [{container: a}]}\n",
            "recipe.yaml:8: build.init[0].container: a does not end by itself: make it one of build.services",
        ),
    ],
)
def test_bad_init_containers(rest: str, expected: str) -> None:
    assert expected in details(rest)


def test_the_objects_of_a_directory_and_of_lists() -> None:
    Path("k8s/sub").mkdir(parents=True)
    Path("k8s/sub/a.yaml").write_text("not: [read\n")
    Path("k8s/README.md").write_text("not: [read\n")
    Path("k8s/recipe.yaml").write_text(START)
    Path("k8s/a.yaml").write_text("kind: List\nitems: [{kind: ConfigMap, metadata: {name: a}, data: {A: one}}]\n---\n")
    Path("k8s/b.json").write_text('{"kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"B": "two"}}')
    Path("k8s/c.yml").write_text("kind: Deployment\nspec: 5\n---\n[]\n---\nkind: ConfigMap\n")
    RECIPE.write_text(
        START.replace("  readiness", "  envFrom: [{configMapRef: {name: a}}, {configMapRef: {name: b}}]\n  readiness")
        + "build: {objects: [k8s]}\n"
    )
    recipe = load_recipe(RECIPE)
    assert recipe.container.env == (("A", "one"), ("B", "two"))
    assert [one["metadata"]["name"] for one in json.loads(recipe.document)["build"]["objects"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ("[none.yaml]", "cannot read 'none.yaml': No such file or directory"),
        ("[empty]", "there is no YAML file in the directory empty"),
        ("[bad.yaml]", "bad.yaml:2:1: expected the node content, but found '<stream end>', while parsing a flow node"),
        ("[number.yaml]", "number.yaml:2: the ConfigMap a: expected a string for PORT: quote it"),
        (
            "[{kind: ConfigMap, metadata: {name: a}, binaryData: {B: '!'}}]",
            "recipe.yaml: build.objects[0]: the ConfigMap a: expected base64 for B in binaryData",
        ),
        (
            "[{kind: ConfigMap, metadata: {name: a}, data: {../x: a}}]",
            "recipe.yaml: build.objects[0]: the ConfigMap a: ../x is not a key: use letters, digits, -, _ and .",
        ),
        (
            "[{kind: Secret, metadata: {name: a}, data: {..: a}}]",
            "recipe.yaml: build.objects[0]: the Secret a: .. is not a key: use letters, digits, -, _ and .",
        ),
        (
            "[one.yaml, {kind: ConfigMap, metadata: {name: a}, data: {A: two}}]",
            "recipe.yaml: build.objects[1]: the ConfigMap a is also at one.yaml:1, with other data: "
            "name only one of them in build.objects",
        ),
        ("[5]", "recipe.yaml:7: build.objects[0]: expected the path of a file or directory, or an object, got 5"),
        ("x", "recipe.yaml:7: build.objects: expected a list of files, directories and objects, got 'x'"),
    ],
)
def test_bad_objects(objects: str, expected: str) -> None:
    Path("empty").mkdir()
    Path("bad.yaml").write_text("a: [\n")
    Path("one.yaml").write_text("kind: ConfigMap\nmetadata: {name: a}\ndata: {A: one}\n")
    Path("number.yaml").write_text("\nkind: ConfigMap\nmetadata: {name: a}\ndata: {PORT: 8080}\n")
    assert expected in details(f"build: {{objects: {objects}}}\n")


def test_a_secret_needs_a_key_that_can_be_a_file() -> None:
    assert details("build: {secrets: {db: {../x: a}}}\n") == [
        "recipe.yaml:7: build.secrets.db.../x: expected a key of letters, digits, '-', '_' and '.'"
    ]


def test_secrets_on_the_command_line_have_two_parts() -> None:
    RECIPE.write_text(START.replace("  readiness", "  envFrom: [{secretRef: {name: db}}]\n  readiness"))
    recipe = load_recipe(RECIPE, overrides=["build.secrets.db.tls.key=8080", "build.fields.status.podIP=10.0.0.1"])
    assert recipe.container.env == (("tls.key", "8080"),)
    assert json.loads(recipe.document)["build"]["fields"] == {"status.podIP": "10.0.0.1"}


def test_steps_after_a_restore() -> None:
    recipe = load(
        "afterRestore:\n  - httpGet: {path: refresh, port: 8080, method: POST}\n    timeoutSeconds: 5\n"
        "  - exec: {command: [a]}\n  - signal: SIGHUP\n"
    )
    assert recipe.after_restore == (
        Step(HttpGet(8080, path="/refresh", method="POST"), timeout_s=5),
        Step(Exec(("a",))),
        Signal("SIGHUP"),
    )
    assert load("afterRestore: {signal: SIGHUP}\n").after_restore == (Signal("SIGHUP"),)
    assert load("afterRestore: {}\n").after_restore == ()


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("{signal: SIGKILL}", "[0].signal: expected the name of a signal: SIGHUP, SIGUSR1, SIGUSR2"),
        ("{tcpSocket: {port: 1}}", "[0]: expected a mapping with exactly one of httpGet, exec and signal"),
        (
            "{httpGet: {port: x}}",
            "[0].httpGet.port: expected an integer from 1 to 65535 or the name of a port, got 'x'",
        ),
        ("{httpGet: {port: 1, scheme: HTTPS}}", "[0].httpGet.scheme: expected HTTP, got 'HTTPS'"),
        ("{exec: {command: [a]}, repeat: 2}", "[0].repeat: unknown key"),
    ],
)
def test_bad_steps_after_a_restore(step: str, expected: str) -> None:
    (line, *_) = details(f"afterRestore: [{step}]\n")
    assert line.startswith(f"recipe.yaml:7: afterRestore{expected}")


def test_all_steps_after_a_restore_are_those_of_a_runtimes_pod_too() -> None:
    for step in ("{signal: SIGHUP}", "{exec: {command: [a]}}", "{httpGet: {port: 1}}"):
        recipe = load(f"restore: [runtime]\nafterRestore: [{step}]\n")
        assert len(recipe.after_restore) == 1
        assert not recipe.needs_self


def test_the_pods_users_and_groups_are_those_of_its_containers() -> None:
    pod = "runAsUser: 1000, runAsNonRoot: true, supplementalGroups: [5], fsGroup: 7"
    pod += ", seccompProfile: {type: RuntimeDefault}"
    recipe = load(
        f"securityContext: {{{pod}}}\n"
        "initContainers: [{name: a, image: b, securityContext: {runAsUser: 2}}]\nbuild: {init: [{container: a}]}\n"
    )
    own, init = recipe.container, recipe.init[0].container
    assert (own.security_context.run_as_user, own.security_context.run_as_non_root, own.fs_group) == (1000, True, 7)
    assert own.security_context.supplemental_groups == (5,)
    assert (init.security_context.run_as_user, init.security_context.run_as_non_root) == (2, True)
    document = json.loads(recipe.document)
    assert document["securityContext"] == {"fsGroup": 7}
    assert document["container"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert parse_recipe(recipe.document, "the image").container == own


def test_the_users_and_groups_of_a_service() -> None:
    container = "{image: a, readinessProbe: {grpc: {port: 1}}}"
    (service,) = load(
        f"build: {{services: [{{name: a, container: {container}, securityContext: {{runAsUser: 3, fsGroup: 4}}}}]}}\n"
    ).services
    assert (service.container.security_context.run_as_user, service.container.fs_group) == (3, 4)


def test_a_mistake_in_the_pods_context_has_its_line() -> None:
    assert details("securityContext: {runAsUser: app, runAsGrup: 1}\n") == [
        "recipe.yaml:7: container.securityContext.runAsUser: expected an integer from 0 to 2147483647, got 'app'",
        "recipe.yaml:7: securityContext.runAsGrup: unknown key: did you mean runAsGroup?",
    ]


def test_too_many_services() -> None:
    one = "{name: a%d, container: {image: i, readinessProbe: {grpc: {port: 1}}}, volumes: [{name: v, emptyDir: {}}]}"
    services = ", ".join(one % n for n in range(65))
    assert details(f"build: {{services: [{services}]}}\n")[0].startswith(
        "recipe.yaml:7: build.services: expected a list of at most 64 services, got"
    )
    assert len(load(f"build: {{services: [{', '.join(one % n for n in range(64))}]}}\n").services) == 64


def test_a_directory_of_the_node_is_empty_in_a_service() -> None:
    volumes = "[{name: d, hostPath: {path: /srv/pg, type: DirectoryOrCreate}}, {name: o, hostPath: {path: /o}}]"
    mounts = "volumeMounts: [{name: d, mountPath: /data}]"
    Path("host.yaml").write_text(
        "kind: Pod\nmetadata: {name: a}\n"
        f"spec: {{volumes: {volumes}, containers: [{{name: b, image: i, ports: [{{containerPort: 1}}], {mounts}}}]}}\n"
    )
    recipe = load("build: {services: [{name: a, from: host.yaml}]}\n")
    (mount,) = recipe.services[0].container.volume_mounts
    assert (mount.path, mount.volume.kind) == ("/data", VolumeKind.EMPTY_DIR)
    assert "the service a gets an empty directory in place of the node's /srv/pg" in recipe.warnings
    Path("host.yaml").write_text(Path("host.yaml").read_text().replace("DirectoryOrCreate", "Socket"))
    assert "hostPath: not accepted" in details("build: {services: [{name: a, from: host.yaml}]}\n")[0]
