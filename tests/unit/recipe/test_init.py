"""First recipes from images and manifests: what is carried over, and what is said of the rest."""

import io
import textwrap
from pathlib import Path

import pytest

from warmstart.core.errors import ImageReferenceError, ManifestError
from warmstart.core.reference import parse_reference
from warmstart.core.yaml_document import read_document
from warmstart.recipe.init.image import ImageConfig, init_from_image
from warmstart.recipe.init.inputs import read_inputs
from warmstart.recipe.init.manifest import InitOptions, init_from_manifest, propose_recipe
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import HttpGet, Port, Prepare, Probe, Recipe, Resources, SecurityContext, Settled, TcpSocket
from warmstart.recipe.pods import SeveralContainersError

DEPLOYMENT = """\
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {FROM_SETTINGS: a}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: Shop_Front}
spec:
  template:
    spec:
      hostNetwork: true
      securityContext: {runAsUser: 1000, runAsNonRoot: true, fsGroup: 2000, seccompProfile: {type: RuntimeDefault}}
      initContainers: [{name: setup, image: x}, {name: wait, image: busybox, command: [sleep, "9"]}]
      volumes: [{name: data, emptyDir: {}}, {name: host, hostPath: {path: /x}}]
      containers:
      - {name: proxy, image: envoy}
      - name: shop
        image: registry.example.com:5000/team/shop:1.2
        imagePullPolicy: Always
        command: [sh, -c]
        args:
        - |
          set -e
          exec java -jar /app.jar --port=$(PORT)
        env:
        - {name: DEBUG, value: "no"}
        - {name: PORT, value: "8080"}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - name: EMPTY
          value:
        envFrom: [{configMapRef: {name: settings}}]
        ports: [{containerPort: 8080, name: http, hostPort: 80}]
        resources: {limits: {cpu: 1, memory: 1Gi, nvidia.com/gpu: 1}, requests: {cpu: 500m}}
        readinessProbe: {httpGet: {port: http, path: /ready}, initialDelaySeconds: 5}
        livenessProbe: {httpGet: {port: http, path: /live}}
        securityContext: {runAsUser: 1001, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        terminationMessagePath: /dev/termination-log
        terminationMessagePolicy: File
        stdin: false
        volumeMounts: [{name: data, mountPath: /data}, {name: host, mountPath: /host}]
"""


def manifest(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "manifest.yaml"
    path.write_text(text)
    return path


def loaded(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path)


def pod(container: str) -> str:
    return f"kind: Pod\nmetadata: {{name: app}}\nspec:\n  containers:\n  - {container}\n"


def comments(text: str) -> str:
    """The comments as one line each."""
    lines = [line.removeprefix("#").removeprefix(" ") for line in text.splitlines() if line.startswith("#")]
    return "\n".join(lines).replace("\n  ", " ")


def test_the_container_of_a_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = loaded(tmp_path, init_from_manifest(manifest(tmp_path, DEPLOYMENT), container="shop"))
    container = recipe.container
    assert recipe.name == "shop-front"
    assert recipe.image == parse_reference("registry.example.com:5000/team/shop:1.2-warm")
    assert container.image == "registry.example.com:5000/team/shop:1.2"
    assert container.command == ("sh", "-c")
    assert container.args == ("set -e\nexec java -jar /app.jar --port=8080\n",)
    assert container.env == (
        ("FROM_SETTINGS", "a"),
        ("DEBUG", "no"),
        ("PORT", "8080"),
        ("POD_IP", "127.0.0.1"),
        ("EMPTY", ""),
    )
    assert container.ports == (Port(8080, name="http"),)
    assert container.resources == Resources(memory_limit_bytes=2**30, cpu_limit_millis=1000, cpu_request_millis=500)
    assert container.readiness_probe == Probe(HttpGet(8080, path="/ready"), period_s=1, failure_threshold=120)
    assert (container.fs_group, [mount.path for mount in container.volume_mounts]) == (2000, ["/data"])
    assert container.security_context == SecurityContext(
        run_as_user=1001,
        run_as_non_root=True,
        capabilities_drop=("ALL",),
        allow_privilege_escalation=False,
    )


@pytest.mark.parametrize(
    "comment",
    [
        "- other containers (proxy): they do not run during a build",
        "- init containers that only wait: wait; a build waits for its services itself",
        "- hostNetwork: the build has a network of its own, and the restored container must have one too",
        "- automountServiceAccountToken: set it to false in the pod, since the build has no such mount",
        "- container.resources.limits.nvidia.com/gpu: not accepted: a device cannot be checkpointed.",
        "- the volume host, mounted at /host: not accepted: a build may not read the node's files",
    ],
)
def test_what_cannot_be_carried_over_is_said_with_the_reason(tmp_path: Path, comment: str) -> None:
    text = init_from_manifest(manifest(tmp_path, DEPLOYMENT), container="shop")
    assert comment in comments(text)


def test_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = manifest(Path(), pod("{name: a, image: app:1, args: ['yes', '0x1', a b], ports: [{containerPort: 80}]}"))
    path.write_text(path.read_text() + "  automountServiceAccountToken: false\n")
    assert init_from_manifest(path) == textwrap.dedent("""\
        # A recipe for warmstart, made from Pod/app in manifest.yaml.
        # `warmstart schema` prints the keys of a recipe.
        apiVersion: warmstart/v1alpha1
        name: app

        # No probe: port 80 is a guess from containerPorts.
        # TODO: an open port does not prove that the application is ready; use httpGet, grpc or exec instead
        # of tcpSocket.
        # A build asks every second and waits 120 s or more: periodSeconds is 1, failureThreshold at least
        # 120, and initialDelaySeconds is left out.
        container:
          image: app:1
          args:
            - "yes"
            - "0x1"
            - a b
          ports:
            - containerPort: 80
          readinessProbe:
            tcpSocket:
              port: 80
            periodSeconds: 1
            failureThreshold: 120

        # Steps that warm up the application before the checkpoint:
        # warmup:
        #   - httpGet: {path: /, port: 8080}
        #     repeat: 100

        # Last steps, for example to free memory that would only make the image larger:
        # beforeCheckpoint:
        #   - httpGet: {path: /collect, port: 8080}
        # For a JVM, if its image has jattach or jcmd:
        # prepare: java

        # TODO: name the registry that the image is pushed to, and that the nodes pull it from. You must be
        # allowed to push there.
        image:
          name: registry.example.com/app:1-warm
        """)


def test_the_examples_in_the_comments_are_right(tmp_path: Path) -> None:
    text = init_from_image("app", ImageConfig(exposed_ports=("8080",)))
    uncommented = (
        text.replace("# warmup", "warmup")
        .replace("# beforeCheckpoint", "beforeCheckpoint")
        .replace("# prepare", "prepare")
        .replace("#  ", " ")
    )
    recipe = loaded(tmp_path, uncommented)
    assert (len(recipe.warmup), len(recipe.before_checkpoint), recipe.prepare) == (1, 1, Prepare.JAVA)


@pytest.mark.parametrize(
    "text",
    [
        "kind: Pod\nmetadata: {name: o}\nspec: {containers: [CONTAINER]}\n",
        "kind: StatefulSet\nmetadata: {name: o}\nspec: {template: {spec: {containers: [CONTAINER]}}}\n",
        "kind: CronJob\nmetadata: {name: o}\n"
        "spec: {jobTemplate: {spec: {template: {spec: {containers: [CONTAINER]}}}}}\n",
        "kind: PodTemplate\nmetadata: {name: o}\ntemplate: {spec: {containers: [CONTAINER]}}\n",
        "kind: List\nitems:\n- kind: Service\n- {kind: Pod, metadata: {name: o}, spec: {containers: [CONTAINER]}}\n",
    ],
)
def test_kinds_of_manifests(tmp_path: Path, text: str) -> None:
    text = text.replace("CONTAINER", "{name: c, image: a.test/i, ports: [{containerPort: 80}]}")
    recipe = loaded(tmp_path, init_from_manifest(manifest(tmp_path, text)))
    assert (recipe.name, recipe.container.image, recipe.image) == ("o", "a.test/i", parse_reference("a.test/i:warm"))


def test_several_containers_have_to_be_told_apart(tmp_path: Path) -> None:
    path = manifest(tmp_path, DEPLOYMENT)
    with pytest.raises(SeveralContainersError, match=r"manifest\.yaml has 2 containers to choose from:$") as caught:
        init_from_manifest(path)
    assert caught.value.details == ("Shop_Front/proxy", "Shop_Front/shop")
    with pytest.raises(
        ManifestError, match=r"manifest\.yaml has no container named nobody; its containers are:$"
    ) as caught:
        init_from_manifest(path, container="nobody")
    assert caught.value.details == ("Shop_Front/proxy", "Shop_Front/shop")


def test_containers_of_the_same_name_are_told_apart_by_their_objects(tmp_path: Path) -> None:
    one = (
        "kind: Pod\nmetadata: {name: one}\nspec: {containers: [{name: app, image: a, ports: [{containerPort: 80}]}]}\n"
    )
    path = manifest(tmp_path, one + "---\n" + one.replace("one", "two").replace("image: a", "image: b"))
    assert loaded(tmp_path, init_from_manifest(path, container="two/app")).container.image == "b"


def test_the_last_of_two_objects_with_the_same_name_counts(tmp_path: Path) -> None:
    one = (
        "kind: Pod\nmetadata: {name: one}\nspec: {containers: [{name: app, image: a, ports: [{containerPort: 80}]}]}\n"
    )
    path = manifest(tmp_path, one + "---\n" + one.replace("image: a", "image: b"))
    assert loaded(tmp_path, init_from_manifest(path)).container.image == "b"
    path = manifest(tmp_path, one + "---\n" + one.replace("name: one", "name: one, namespace: test"))
    with pytest.raises(SeveralContainersError):
        init_from_manifest(path)


@pytest.mark.parametrize("text", ["", "a", "kind: Service\nspec: {}\n", "- kind: Pod\n", "spec: {containers: x}"])
def test_no_container(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.yaml has no container$"):
        init_from_manifest(manifest(tmp_path, text))


@pytest.mark.parametrize("image", ["image: '${IMAGE}'", "image: {{ .Values.image }}", "image:", "x: y"])
def test_an_image_that_is_a_template_is_to_be_named(tmp_path: Path, image: str) -> None:
    text = init_from_manifest(manifest(tmp_path, f"kind: Pod\nspec:\n  containers:\n  - {image}\n    name: a\n"))
    assert "- name the base image in container.image; the manifest has" in comments(text)
    assert "  # image: TODO\n" in text
    assert "name: registry.example.com/a:warm" in text
    assert "unnamed" not in text


def test_a_key_that_is_given_twice_counts_once_as_for_kubectl(tmp_path: Path) -> None:
    path = manifest(tmp_path, pod("{name: a, image: b, image: c, ports: [{containerPort: 80}]}"))
    text = init_from_manifest(path)
    assert loaded(tmp_path, text).container.image == "c"
    assert f"- {path}:5: image is given twice; the last one counts, as for kubectl" in comments(text)


def test_a_manifest_that_is_read_with_mistakes(tmp_path: Path) -> None:
    path = manifest(tmp_path, pod("{name: a, image: !mine b}"))
    with pytest.raises(ManifestError, match=r"manifest\.yaml has a mistake$") as caught:
        init_from_manifest(path)
    assert caught.value.details == (
        f"{path}:5: spec.containers[0].image: the tag !mine is not supported: delete it",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("a: \xff".encode("latin-1"), "is not UTF-8 text"),
        (b"#" * (1 << 20) + b"\n", "is too large: the limit is 1 MiB"),
    ],
)
def test_a_manifest_that_cannot_be_read(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ManifestError, match=rf"manifest\.yaml {message}$"):
        init_from_manifest(path)


def test_directories_without_a_workload(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"^there is no manifest in the directory "):
        init_from_manifest(tmp_path)
    (tmp_path / "recipe.yaml").write_text("apiVersion: warmstart/v1alpha1\ncontainer: {image: a}\n")
    with pytest.raises(ManifestError, match=r" has no container$"):
        init_from_manifest(tmp_path)


def test_a_liveness_probe_takes_the_place_of_a_readiness_probe(tmp_path: Path) -> None:
    container = "{name: a, image: b, livenessProbe: {httpGet: {port: 80}, failureThreshold: 9}}"
    text = init_from_manifest(manifest(tmp_path, pod(container)))
    assert "its liveness probe is used instead" in comments(text)
    assert loaded(tmp_path, text).container.readiness_probe == Probe(HttpGet(80), period_s=1, failure_threshold=120)


@pytest.mark.parametrize(
    ("numbers", "failures"),
    [
        ("", 120),
        ("initialDelaySeconds: 90, periodSeconds: 20, failureThreshold: 10", 290),
        ("initialDelaySeconds: 9, periodSeconds: 1, failureThreshold: 1", 120),
        ("periodSeconds: 100000, failureThreshold: 10", 3600),
    ],
)
def test_a_build_is_patient(tmp_path: Path, numbers: str, failures: int) -> None:
    probe = f"{{httpGet: {{port: 80}}, timeoutSeconds: 3, {numbers}}}"
    text = init_from_manifest(manifest(tmp_path, pod(f"{{name: a, image: b, startupProbe: {probe}}}")))
    expected = Probe(HttpGet(80), period_s=1, timeout_s=3, failure_threshold=failures)
    assert loaded(tmp_path, text).container.startup_probe == expected
    assert "initialDelaySeconds is left out" in comments(text)


def test_a_port_is_looked_for_in_the_image_last(tmp_path: Path) -> None:
    asked = []

    def exposed(image: str) -> tuple[str, ...]:
        asked.append(image)
        return ("53/udp", "3000/tcp")

    with_port = manifest(tmp_path, pod("{name: a, image: b, ports: [{containerPort: 80}]}"))
    propose_recipe(read_inputs(with_port), InitOptions(exposed=exposed))
    assert asked == []
    proposal = propose_recipe(read_inputs(manifest(tmp_path, pod("{name: a, image: b}"))), InitOptions(exposed=exposed))
    assert asked == ["b"]
    assert "No probe: port 3000 is a guess from ExposedPorts of the image." in comments(proposal.text)
    probe = loaded(tmp_path, proposal.text).container.readiness_probe
    assert probe is not None
    assert probe.action == TcpSocket(3000)


@pytest.mark.parametrize(("ports", "read"), [((), True), (None, False)])
def test_no_port_is_made_up(tmp_path: Path, ports: tuple[str, ...] | None, read: bool) -> None:
    inputs = read_inputs(manifest(tmp_path, pod("{name: a, image: b}")))
    text = propose_recipe(inputs, InitOptions(exposed=lambda _: ports)).text
    assert "it has used next to no processor time for 5 s" in comments(text)
    assert loaded(tmp_path, text).container.settled == Settled(quiet_s=5)
    assert ("ExposedPorts" in text) == read


def test_probes_that_cannot_be_carried_over(tmp_path: Path) -> None:
    container = (
        "{name: a, image: b, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 80}], "
        "readinessProbe: {httpGet: {port: gone}}, livenessProbe: {httpGet: {port: gone}}}"
    )
    text = init_from_manifest(manifest(tmp_path, pod(container)))
    probe = loaded(tmp_path, text).container.readiness_probe
    assert probe is not None
    assert probe.action == TcpSocket(80)
    assert "container.readinessProbe.httpGet.port: expected an integer" in comments(text)
    assert "liveness" not in text


def test_an_image(tmp_path: Path) -> None:
    config = ImageConfig(
        entrypoint=("java", "-jar"),
        cmd=("/my app.jar",),
        exposed_ports=("5353/udp", "8080"),
        env=("PATH=/bin", "JAVA_HOME=/jdk"),
        user="1000",
    )
    text = init_from_image("quay.io/team/java_app@sha256:" + "0" * 64, config)
    recipe = loaded(tmp_path, text)
    assert (recipe.name, str(recipe.image)) == ("java-app", "registry.example.com/java_app:warm")
    assert recipe.container.ports == (Port(5353, protocol="UDP"), Port(8080))
    assert recipe.container.readiness_probe == Probe(TcpSocket(8080), period_s=1, failure_threshold=120)
    said = comments(text)
    assert "The image runs: java -jar '/my app.jar'" in said
    assert "It runs as the user 1000; securityContext.runAsUser replaces it." in said
    assert "It sets PATH, JAVA_HOME; env adds to these and replaces them." in said


def test_an_image_that_says_nothing(tmp_path: Path) -> None:
    text = init_from_image("localhost:5000/app:1", ImageConfig())
    assert "name: localhost:5000/app:1-warm" in text
    said = comments(text)
    assert "The image has no command of its own: give one." in said
    assert "TODO: no probe, and no port to guess one from" in said
    assert "readinessProbe" not in read_document(text, "recipe").value["container"]


@pytest.mark.parametrize(
    ("image", "name", "made"),
    [
        ("app", "app", "registry.example.com/app:warm"),
        ("someone/app:3", "app", "registry.example.com/app:3-warm"),
        ("ghcr.io/someone/team/app:3", "app", "registry.example.com/app:3-warm"),
        ("public.ecr.aws/docker/library/app", "app", "registry.example.com/app:warm"),
        ("europe-docker.pkg.dev/team/repo/app:1", "app", "registry.example.com/app:1-warm"),
        ("harbor.corp.test/team/app:1", "app", "harbor.corp.test/team/app:1-warm"),
        ("docker://quay.io/app:1", "app", "registry.example.com/app:1-warm"),
        ("containers-storage:localhost/app", "app", "registry.example.com/app:warm"),
        ("localhost/team/app:2", "app", "registry.example.com/team/app:2-warm"),
        ("oci-archive:out/App.tar", "app", "registry.example.com/app:warm"),
        ("oci-archive:/out/app-1.0.tar.gz", "app-1-0", "registry.example.com/app-1-0:warm"),
        ("oci:out/app:quay.io/team/shop:1", "shop", "registry.example.com/shop:1-warm"),
        ("docker-archive:app.tar", "app", "registry.example.com/app:warm"),
        ("app:" + "x" * 128, "app", "registry.example.com/app:" + "x" * 123 + "-warm"),
    ],
)
def test_names_for_what_is_made(tmp_path: Path, image: str, name: str, made: str) -> None:
    recipe = loaded(tmp_path, init_from_image(image, ImageConfig(exposed_ports=("80",))))
    assert (recipe.container.image, recipe.name, recipe.image) == (image, name, parse_reference(made))


def test_a_registry_that_is_made_up_is_to_be_replaced() -> None:
    to_do = "# TODO: name the registry that the image is pushed to"
    assert to_do in init_from_image("oci-archive:app.tar", ImageConfig())
    assert to_do in init_from_image("quay.io/team/app:1", ImageConfig())
    assert to_do not in init_from_image("harbor.corp.test/team/app:1", ImageConfig())
    assert to_do not in init_from_image("registry.example.com/team/app:1", ImageConfig())


def test_what_is_no_image() -> None:
    with pytest.raises(ImageReferenceError, match=r"^A b is not the name of an image$"):
        init_from_image("A b", ImageConfig())


@pytest.mark.parametrize("amount", ["1e18", "1e19", "1e20", "1e64", "1e308", "1e400", "'1e64'", "9" * 64, "9" * 65])
def test_any_amount_of_memory_is_read_again(tmp_path: Path, amount: str) -> None:
    container = (
        f"{{name: a, image: a/b:c, ports: [{{containerPort: 80}}], resources: {{limits: {{memory: {amount}}}}}}}"
    )
    text = init_from_manifest(manifest(tmp_path, f"kind: Pod\nspec: {{containers: [{container}]}}\n"))
    (tmp_path / "recipe.yaml").write_text(text)
    limit = load_recipe(tmp_path / "recipe.yaml").container.resources.memory_limit_bytes
    # Kubernetes caps a quantity in the same way. Text that is too long for one is left out.
    too_long = len(amount) > 64
    assert limit == (None if too_long else 10**18 if amount == "1e18" else 2**63 - 1)
    assert ("# - container.resources.limits.memory: expected a quantity" in text) == too_long


def test_variables_that_refer_to_others_that_are_left_out_go_too(tmp_path: Path) -> None:
    env = (
        "[{name: A=B, value: x}, {name: URL, value: 'http://$(A=B)/'}, {name: NEXT, value: $(URL)}, "
        "{name: KEPT, value: $$(URL)}]"
    )
    container = f"{{name: a, image: b, ports: [{{containerPort: 80}}], args: [--url=$(URL)], env: {env}}}"
    text = init_from_manifest(manifest(tmp_path, pod(container)))
    assert loaded(tmp_path, text).container.env == (("KEPT", "$(URL)"),)
    said = comments(text)
    assert "- the variable URL: it refers to A=B, which is left out" in said
    assert "- the variable NEXT: it refers to URL, which is left out" in said
    assert "- the command: it refers to URL, which is left out, and gets $(URL) as it is" in said


def test_a_mount_goes_with_its_volume(tmp_path: Path) -> None:
    text = init_from_manifest(
        manifest(
            tmp_path,
            pod(
                "{name: a, image: b, ports: [{containerPort: 80}], securityContext: {readOnlyRootFilesystem: true}, "
                "volumeMounts: [{name: host, mountPath: /logs}, {name: tmp, mountPath: /tmp}]}"
            )
            + "  volumes: [{name: host, hostPath: {path: /x}}, {name: tmp, emptyDir: {}}]\n",
        )
    )
    container = loaded(tmp_path, text).container
    assert [mount.path for mount in container.volume_mounts] == ["/tmp"]
    assert not container.security_context.read_only_root_filesystem
    assert "readOnlyRootFilesystem: left out, because the application could write to /logs" in comments(text)


def test_paths_start_where_the_recipe_will_be(tmp_path: Path) -> None:
    k8s = tmp_path / "k8s"
    k8s.mkdir()
    container = "{name: a, image: b, ports: [{containerPort: 80}], envFrom: [{configMapRef: {name: conf}}]}"
    manifest(k8s, pod(container))
    (k8s / "conf.yaml").write_text("kind: ConfigMap\nmetadata: {name: conf}\ndata: {A: b}\n")
    text = propose_recipe(read_inputs(k8s), InitOptions(directory=tmp_path / "recipes")).text
    assert "    - ../k8s/conf.yaml\n" in text
    (tmp_path / "recipes").mkdir()
    assert loaded(tmp_path / "recipes", text).container.env == (("A", "b"),)


def test_standard_input_needs_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent / "manifests" / "service-in-configmap.yaml").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    recipe = loaded(tmp_path, init_from_manifest(Path("-")))
    assert dict(recipe.container.env)["REDIS_HOST"] == "redis"
    assert [(service.name, service.container.image) for service in recipe.services] == [("redis", "redis:8-alpine")]


def test_missing_services_are_proposed_with_the_account_of_the_application(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, init_from_manifest(Path(__file__).parent / "manifests" / "service-python.yaml"))
    assert [service.name for service in recipe.services] == ["db", "rabbitmq"]
    assert dict(recipe.services[0].container.env)["POSTGRES_PASSWORD"] == "polls"


def test_variables_that_differ_in_the_pod_are_named(tmp_path: Path) -> None:
    text = init_from_manifest(Path(__file__).parent / "manifests" / "envfrom-prefix.yaml")
    assert "# late: [DB_user, DB_password]\n" in text
    assert "late" not in init_from_manifest(Path(__file__).parent / "manifests" / "spring-plain.yaml")


def test_names_of_variables_stay_in_their_comment(tmp_path: Path) -> None:
    source = "valueFrom: {fieldRef: {fieldPath: status.podIP}}"
    env = f'[{{name: "A\\nlate: [x]\\n#", {source}}}, {{name: "B, C", {source}}}]'
    container = f"{{name: a, image: a:1, ports: [{{containerPort: 80}}], env: {env}}}"
    text = init_from_manifest(
        manifest(tmp_path, f"kind: Pod\nmetadata: {{name: a}}\nspec: {{containers: [{container}]}}\n")
    )
    assert '# late: ["A\\nlate: [x]\\n#", "B, C"]\n' in text
    assert not any(line.startswith("late") for line in text.splitlines())


def test_a_broken_file_of_a_directory_is_left_out_if_there_are_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{{ template }}: [")
    with pytest.raises(ManifestError, match=r"a\.yaml is not valid YAML$"):
        init_from_manifest(tmp_path)
    (tmp_path / "b.yaml").write_text(pod("{name: a, image: b, ports: [{containerPort: 80}]}"))
    assert f"- left out: {tmp_path}/a.yaml is not valid YAML: " in comments(init_from_manifest(tmp_path))


ACCOUNT = "{name: DB_PASSWORD, value: p}, {name: DB_NAME, value: shop}"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (
            "{name: DB_HOST, value: mysql}, {name: DB_USER, value: shop}, " + ACCOUNT,
            {"MYSQL_ROOT_PASSWORD": "p", "MYSQL_DATABASE": "shop", "MYSQL_USER": "shop", "MYSQL_PASSWORD": "p"},
        ),
        (
            "{name: DB_HOST, value: mysql}, {name: DB_USER, value: root}, " + ACCOUNT,
            {"MYSQL_ROOT_PASSWORD": "p", "MYSQL_DATABASE": "shop"},
        ),
        ("{name: REDIS_HOST, value: redis}", {}),
    ],
)
def test_a_proposed_service_has_the_account_of_the_application(
    tmp_path: Path, env: str, expected: dict[str, str]
) -> None:
    container = f"{{name: a, image: a:1, ports: [{{containerPort: 80}}], env: [{env}]}}"
    made = propose_recipe(read_inputs(manifest(tmp_path, pod(container))), InitOptions())
    assert made.to_do == ()
    (service,) = loaded(tmp_path, made.text).services
    assert dict(service.container.env) == expected
    assert any(note.startswith("proposed, since ") for note in made.notes)


@pytest.mark.parametrize(
    "env",
    [
        "{name: REDIS_URL, value: 'rediss://redis:6379'}",
        "{name: REDIS_URL, value: 'redis://redis:6380'}",
        "{name: REDIS_HOST, value: redis}, {name: REDIS_PASSWORD, value: p}",
        "{name: AMQP_URL, value: 'amqp://shop:p@rabbitmq:5672'}",
        "{name: DATABASE_URL, value: 'postgres://$(USER_OF_DB):p@db/shop'}",
        "{name: DB_HOST, value: db}",
    ],
)
def test_a_service_that_its_image_would_not_serve_is_left_to_the_user(tmp_path: Path, env: str) -> None:
    container = f"{{name: a, image: a:1, ports: [{{containerPort: 80}}], env: [{env}]}}"
    made = propose_recipe(read_inputs(manifest(tmp_path, pod(container))), InitOptions())
    (reason,) = made.to_do
    assert reason.startswith("it refers to the service ")
    assert loaded(tmp_path, made.text).services == ()


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("env: [{name: SERVER_PORT, value: '9001'}]", "the variable SERVER_PORT"),
        ("env: [{name: ASPNETCORE_URLS, value: 'http://+:9001'}]", "the variable ASPNETCORE_URLS"),
        ("args: ['--server.port=9001']", "the command"),
        ("args: [--port, '9001']", "the command"),
        ("command: [gunicorn, -b, '0.0.0.0:9001', shop]", "the command"),
        ("command: [uvicorn, 'shop:app', --port, '9001']", "the command"),
        ("command: [python, manage.py, runserver, '0.0.0.0:9001']", "the command"),
        ("command: [sh, -c, 'exec java -Dserver.port=9001 -jar shop.jar']", "the command"),
    ],
)
def test_a_port_is_found_in_variables_and_commands(tmp_path: Path, words: str, where: str) -> None:
    text = init_from_manifest(manifest(tmp_path, pod(f"{{name: a, image: a:1, {words}}}")))
    assert f"No probe: port 9001 is a guess from {where}." in comments(text)
    probe = loaded(tmp_path, text).container.readiness_probe
    assert probe is not None
    assert probe.action == TcpSocket(9001)


@pytest.mark.parametrize("words", ["env: [{name: DB_PORT, value: '5432'}]", "args: [-p, '9001']"])
def test_a_port_of_something_else_is_none_of_the_container(tmp_path: Path, words: str) -> None:
    text = init_from_manifest(manifest(tmp_path, pod(f"{{name: a, image: a:1, {words}}}")))
    assert loaded(tmp_path, text).container.readiness_probe is None
