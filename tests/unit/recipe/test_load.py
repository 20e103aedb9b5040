"""Recipes from their files: what a good one becomes, and what is said of a bad one."""

import io
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from warmstart.core.errors import RecipeError
from warmstart.core.reference import parse_reference
from warmstart.recipe.load import load_recipe, parse_recipe, with_ports
from warmstart.recipe.model import (
    Compression,
    Container,
    Exec,
    Grpc,
    HttpGet,
    Lazy,
    Port,
    Probe,
    Recipe,
    Resources,
    Restorer,
    SecurityContext,
    Settled,
    Step,
    TcpSocket,
)

RECIPE = Path("recipe.yaml")

BASE = """\
apiVersion: warmstart/v1alpha1
name: java-app
container:
  image: localhost/java-app:1.0
  env:
    - {name: MODE, value: prod}
  ports:
    - {name: http, containerPort: 8080}
  readinessProbe:
    httpGet: {path: /ready, port: http}
image:
  name: registry.example.com/team/java-app:1.0-warm
"""


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, overrides: Sequence[str] = (), tag: str | None = None) -> Recipe:
    RECIPE.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_recipe(RECIPE, overrides=overrides, tag=tag)


def details(text: str | bytes, overrides: Sequence[str] = (), tag: str | None = None) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(text, overrides, tag)
    return list(caught.value.details)


def changed(old: str, new: str) -> str:
    """The base recipe with one piece replaced."""
    assert BASE.count(old) == 1
    return BASE.replace(old, new)


def test_a_small_recipe_has_the_defaults() -> None:
    recipe = load(BASE)
    document = recipe.document
    assert recipe == Recipe(
        name="java-app",
        container=Container(
            image="localhost/java-app:1.0",
            env=(("MODE", "prod"),),
            ports=(Port(8080, name="http"),),
            readiness_probe=Probe(HttpGet(8080, path="/ready")),
        ),
        image=parse_reference("registry.example.com/team/java-app:1.0-warm"),
        restore=(Restorer.RUNTIME, Restorer.SELF),
        restore_is_default=True,
        source=RECIPE,
        document=document,
    )


FULL = """\
# Everything that a recipe may hold.
apiVersion: warmstart/v1alpha1
name: full
container:
  name: app
  image: quay.io:443/team/app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  imagePullPolicy: Always
  command: [sh, -c]
  args: &args
    - |
      exec app
    - --listen=$(HOST):$(PORT)
    - $$(PORT) $(UNKNOWN) $
  env:
    - name: PORT
      value: "8080"
    - {name: HOST, value: "h$(PORT)$(LATER)"}
    - {name: LATER, value: ''}
    - name: EMPTY
  workingDir: /app
  ports:
    - {name: web, containerPort: 8080, hostPort: 80}
    - {containerPort: 8080, protocol: UDP}
  resources:
    limits: {memory: 1.5Gi, cpu: 1.5, ephemeral-storage: 1Gi}
    requests: {memory: 512M, cpu: 250m}
  securityContext:
    runAsUser: 1000
    runAsGroup: 0x10
    runAsNonRoot: yes
    supplementalGroups: [5, 6]
    capabilities: {add: [NET_BIND_SERVICE], drop: [ALL]}
    privileged: false
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: off
  readinessProbe:
    grpc: {port: 9090, service: health}
    initialDelaySeconds: 1
    periodSeconds: 2
    timeoutSeconds: 3
    successThreshold: 4
    failureThreshold: 5
    terminationGracePeriodSeconds: 6
  startupProbe:
    tcpSocket: {port: web, host: 127.0.0.1}
    successThreshold: 1
  livenessProbe: {exec: {command: [anything]}}
  lifecycle: {preStop: {sleep: {seconds: 5}}}
  resizePolicy: []
  restartPolicy: Always
  terminationMessagePath: /dev/termination-log
  terminationMessagePolicy: File
  stdin: false
  tty: false
warmup:
  - httpGet:
      path: greeting?name=a%20b
      port: web
      scheme: HTTPS
      host: example.com
      httpHeaders: [{name: Host, value: "example.com"}, {name: X-A, value: ""}]
    repeat: 300
    concurrency: 4
    timeoutSeconds: 0.5
beforeCheckpoint:
  - exec: {command: [jcmd, "1", GC.run, $(PORT)]}
restore: [runtime]
image:
  name: app
  labels: {org.example.a: "1", b: x}
  compression: small
  lazy: estargz
  maxAge: 30d12h
"""


def test_a_full_recipe() -> None:
    recipe = load(FULL)
    assert recipe.image == parse_reference("app:latest")
    assert recipe.labels == {"org.example.a": "1", "b": "x"}
    assert recipe.compression is Compression.SMALL
    assert recipe.lazy is Lazy.ESTARGZ
    assert recipe.max_age == timedelta(days=30, hours=12)
    assert recipe.restore == (Restorer.RUNTIME,)
    assert recipe.warmup == (
        Step(
            HttpGet(
                8080,
                path="/greeting?name=a%20b",
                scheme="HTTPS",
                host="example.com",
                headers=(("Host", "example.com"), ("X-A", "")),
            ),
            repeat=300,
            concurrency=4,
            timeout_s=0.5,
        ),
    )
    assert recipe.before_checkpoint == (Step(Exec(("jcmd", "1", "GC.run", "8080"))),)
    container = recipe.container
    assert container.image.startswith("quay.io:443/team/app@sha256:0123")
    assert container.command == ("sh", "-c")
    assert container.working_dir == "/app"
    assert container.ports == (Port(8080, name="web"), Port(8080, protocol="UDP"))
    assert container.resources == Resources(
        memory_limit_bytes=1536 * 1024**2,
        cpu_limit_millis=1500,
        memory_request_bytes=512 * 10**6,
        cpu_request_millis=250,
    )
    assert container.security_context == SecurityContext(
        run_as_user=1000,
        run_as_group=16,
        run_as_non_root=True,
        supplemental_groups=(5, 6),
        capabilities_add=("NET_BIND_SERVICE",),
        capabilities_drop=("ALL",),
        read_only_root_filesystem=True,
        allow_privilege_escalation=False,
    )
    assert container.readiness_probe == Probe(
        Grpc(9090, service="health"),
        initial_delay_s=1,
        period_s=2,
        timeout_s=3,
        success_threshold=4,
        failure_threshold=5,
    )
    assert container.startup_probe == Probe(TcpSocket(8080, host="127.0.0.1"))


def test_references_to_variables_are_replaced_as_in_a_pod() -> None:
    container = load(FULL).container
    # A value sees the variables before it; what is not known stays as it is.
    assert container.env == (("PORT", "8080"), ("HOST", "h8080$(LATER)"), ("LATER", ""), ("EMPTY", ""))
    assert container.args == ("exec app\n", "--listen=h8080$(LATER):8080", "$(PORT) $(UNKNOWN) $")


PROBE = "    httpGet: {path: /ready, port: http}\n"
EXACTLY_ONE = "expected a mapping with exactly one of httpGet, tcpSocket, exec and grpc"
IMAGE_NAME = "expected an image name with a tag, such as registry.example.com/team/java-app:1.0-warm"
QUANTITY = "expected a quantity such as 512Mi, 1.5 or 500m"

BAD = {
    # keys
    "unknown key": (
        changed("  image: localhost", "  imag: x\n  image: localhost"),
        ["recipe.yaml:4: container.imag: unknown key: did you mean image?"],
    ),
    "unknown key, nothing near": (
        changed("  name: registry", "  zzz: x\n  name: registry"),
        ["recipe.yaml:12: image.zzz: unknown key: expected one of name, labels, compression, lazy, maxAge"],
    ),
    "a compression that does not exist": (
        BASE + "  compression: best\n",
        ["recipe.yaml:13: image.compression: expected fast or small, got 'best'"],
    ),
    "an age that is no duration": (
        BASE + "  maxAge: 30 days\n",
        ["recipe.yaml:13: image.maxAge: expected a duration such as 30d, 12h or 1d12h, got '30 days'"],
    ),
    "an age that the build itself can take": (
        BASE + "  maxAge: 10m\n",
        [
            "recipe.yaml:13: image.maxAge: expected at least 1h (the age counts from the start of the build), got 10m",
        ],
    ),
    "unknown key in a list": (
        changed("value: prod}", "vlaue: prod}"),
        ["recipe.yaml:6: container.env[0].vlaue: unknown key: did you mean value?"],
    ),
    "missing keys": (
        "name: x\n",
        [
            "recipe.yaml:1: apiVersion: missing: expected warmstart/v1alpha1",
            "recipe.yaml:1: container: missing: expected a mapping with image and readinessProbe",
            "recipe.yaml:1: image: missing: expected a mapping with name",
        ],
    ),
    "no image": (
        changed("  image: localhost/java-app:1.0\n", ""),
        [
            "recipe.yaml:3: container.image: missing: "
            "expected an image reference such as registry.example.com/team/java-app:1.0"
        ],
    ),
    "no name of a variable": (
        changed("name: MODE, ", ""),
        ["recipe.yaml:6: container.env[0].name: missing: expected a name in printable ASCII without '='"],
    ),
    "duplicate key": (
        changed("name: java-app\n", "name: java-app\nname: java-app\n"),
        ["recipe.yaml:3: name: given twice, on line 2 and here: delete one"],
    ),
    "key that is not a string": (
        changed("name: java-app\n", "name: java-app\n8080: x\non: x\n[a]: x\n"),
        [
            "recipe.yaml:3: expected a key that is a string, got 8080: quote it",
            "recipe.yaml:4: expected a key that is a string, got on: quote it",
            "recipe.yaml:5: expected a key that is a string, got a list or a mapping",
        ],
    ),
    "merge key": (
        changed("  env:", "  <<: {args: [a]}\n  env:"),
        [
            "recipe.yaml:5: container.<<: unknown key: expected one of image, command, args, env, envFrom, workingDir, "
            "ports, volumeMounts, resources, securityContext, readinessProbe, startupProbe, terminationMessagePath, "
            "lifecycle, stdin, stdinOnce, tty"
        ],
    ),
    # types and values
    "other version": (
        changed("v1alpha1", "v2"),
        ["recipe.yaml:1: apiVersion: expected warmstart/v1alpha1, got 'warmstart/v2'"],
    ),
    "name": (
        changed("name: java-app\n", "name: Java_App\n"),
        [
            "recipe.yaml:2: name: expected a name of at most 63 lower-case letters, digits and '-', "
            "such as java-app, got 'Java_App'"
        ],
    ),
    "name with a newline": (
        changed("name: java-app\n", "name: |\n  java-app\n"),
        [
            "recipe.yaml:2: name: expected a name of at most 63 lower-case letters, digits and '-', "
            "such as java-app, got 'java-app\\n'"
        ],
    ),
    "image": (
        changed("localhost/java-app:1.0", "${IMAGE}"),
        [
            "recipe.yaml:4: container.image: "
            "expected an image reference such as registry.example.com/team/java-app:1.0, got '${IMAGE}'"
        ],
    ),
    "number for a string": (
        changed("value: prod", "value: 8080"),
        ['recipe.yaml:6: container.env[0].value: expected a string, got 8080; quote it: "8080"'],
    ),
    "boolean for a string": (
        changed("value: prod", "value: yes"),
        ['recipe.yaml:6: container.env[0].value: expected a string, got yes; quote it: "yes"'],
    ),
    "octal for a string": (
        changed("  env:", "  args: [chmod, 0644]\n  env:"),
        ['recipe.yaml:5: container.args[1]: expected a string, got 0644; quote it: "0644"'],
    ),
    "nothing for a string": (
        changed("value: prod", "value: "),
        ["recipe.yaml:6: container.env[0].value: expected a string, got nothing"],
    ),
    "string for a list": (
        changed("  env:", "  command: sh -c\n  env:"),
        ["recipe.yaml:5: container.command: expected a list of strings, got 'sh -c'"],
    ),
    "mapping for a list": (
        changed("    - {name: MODE, value: prod}", "    MODE: prod"),
        ["recipe.yaml:5: container.env: expected a list of variables, got a mapping with MODE"],
    ),
    "list for a mapping": (
        changed("  name: registry.example.com/team/java-app:1.0-warm", "  - x"),
        ['recipe.yaml:11: image: expected a mapping with name, got ["x"]'],
    ),
    "string for a boolean": (
        changed("  env:", "  securityContext: {privileged: 'true'}\n  env:"),
        ["recipe.yaml:5: container.securityContext.privileged: expected true or false, got 'true'"],
    ),
    "variable's name": (
        changed("name: MODE", "name: A=B"),
        ["recipe.yaml:6: container.env[0].name: expected a name in printable ASCII without '=', got 'A=B'"],
    ),
    "port beyond": (
        changed("containerPort: 8080", "containerPort: 80800"),
        ["recipe.yaml:8: container.ports[0].containerPort: expected an integer from 1 to 65535, got 80800"],
    ),
    "port with a fraction": (
        changed("containerPort: 8080", "containerPort: 80.5"),
        ["recipe.yaml:8: container.ports[0].containerPort: expected an integer from 1 to 65535, got 80.5"],
    ),
    "protocol": (
        changed("containerPort: 8080", "containerPort: 8080, protocol: tcp"),
        ["recipe.yaml:8: container.ports[0].protocol: expected TCP, UDP or SCTP, got 'tcp'"],
    ),
    "quantities": (
        changed("  env:", "  resources:\n    limits: {memory: 512MB, cpu: -1}\n  env:"),
        [
            f"recipe.yaml:6: container.resources.limits.memory: {QUANTITY}, got '512MB'",
            f"recipe.yaml:6: container.resources.limits.cpu: {QUANTITY}, got -1",
        ],
    ),
    "capability": (
        changed("  env:", "  securityContext: {capabilities: {add: [CAP-SYS-ADMIN]}}\n  env:"),
        [
            "recipe.yaml:5: container.securityContext.capabilities.add[0]: "
            "expected a capability, such as NET_BIND_SERVICE, or ALL, got 'CAP-SYS-ADMIN'"
        ],
    ),
    "user": (
        changed("  env:", "  securityContext: {runAsUser: app}\n  env:"),
        [
            "recipe.yaml:5: container.securityContext.runAsUser: "
            "expected an integer from 0 to 2147483647, got 'app'"
        ],
    ),
    "restorer": (
        BASE + "restore: [docker]\n",
        ["recipe.yaml:13: restore[0]: expected runtime or self, got 'docker'"],
    ),
    "restorer twice": (
        BASE + "restore: [runtime, runtime]\n",
        [
            "recipe.yaml:13: restore: expected a list of restorers without repetition: runtime, self, "
            'got ["runtime", "runtime"]'
        ],
    ),
    "no restorer": (
        BASE + "restore: []\n",
        ["recipe.yaml:13: restore: expected a list of restorers without repetition: runtime, self, got an empty list"],
    ),
    "privileges for an image that restores itself": (
        changed("  readinessProbe:", "  securityContext: {privileged: true}\n  readinessProbe:") + "restore: [self]\n",
        [
            "recipe.yaml:9: container.securityContext.privileged: expected false, because `restore` has self: "
            "an image that restores itself runs without privileges"
        ],
    ),
    "label": (
        BASE + "  labels: {a: 1}\n",
        ['recipe.yaml:13: image.labels.a: expected a string, got 1; quote it: "1"'],
    ),
    "image name": (
        changed("1.0-warm", "1.0 warm"),
        [f"recipe.yaml:12: image.name: {IMAGE_NAME}, got 'registry.example.com/team/java-app:1.0 warm'"],
    ),
    "image name with a digest": (
        changed(":1.0-warm", "@sha256:" + "0" * 64),
        [
            "recipe.yaml:12: image.name: expected an image name with a tag and without a digest: "
            "the digest is known only when the image has been made"
        ],
    ),
    "image name of the base": (
        changed("registry.example.com/team/java-app:1.0-warm", "localhost/java-app:1.0"),
        ["recipe.yaml:12: image.name: expected a name other than that of container.image, which it would replace"],
    ),
    "image name of the base, from the local storage": (
        changed("  image: localhost", "  image: containers-storage:localhost").replace(
            "registry.example.com/team/java-app:1.0-warm", "localhost/java-app:1.0"
        ),
        ["recipe.yaml:12: image.name: expected a name other than that of container.image, which it would replace"],
    ),
    # probes and steps
    "no probe": (
        changed("  readinessProbe:\n" + PROBE, ""),
        [
            "recipe.yaml:3: container: has no probe that says when it is ready to be checkpointed: add one, such as "
            "readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 120}; for a "
            "container without a port, add `settled: {}` to build"
        ],
    ),
    "a probe and settled": (
        BASE + "build: {settled: {}}\n",
        ["recipe.yaml:13: build.settled: expected nothing, because container.readinessProbe is given: delete one"],
    ),
    "settled too soon": (
        changed("  readinessProbe:\n" + PROBE, "") + "build: {settled: {quietSeconds: 0}}\n",
        ["recipe.yaml:11: build.settled.quietSeconds: expected an integer from 1 to 600, got 0"],
    ),
    "two actions": (
        changed(PROBE, PROBE + "    tcpSocket: {port: http}\n"),
        [f"recipe.yaml:9: container.readinessProbe: {EXACTLY_ONE}, got a mapping with httpGet, tcpSocket"],
    ),
    "no action": (
        changed(PROBE, "    periodSeconds: 1\n"),
        [f"recipe.yaml:9: container.readinessProbe: {EXACTLY_ONE}, got a mapping with periodSeconds"],
    ),
    "port's name": (
        changed("port: http}", "port: eighty}"),
        [
            "recipe.yaml:10: container.readinessProbe.httpGet.port: expected an integer from 1 to 65535 or the name "
            "of a port, got 'eighty'; container.ports has http"
        ],
    ),
    "port's name without ports": (
        changed("{name: http, containerPort: 8080}", "{containerPort: 8080}"),
        [
            "recipe.yaml:10: container.readinessProbe.httpGet.port: expected an integer from 1 to 65535 or the name "
            "of a port, got 'http'; container.ports names none"
        ],
    ),
    "port's name in a step": (
        BASE + "warmup:\n  - httpGet: {port: http}\n  - httpGet: {port: htp}\n",
        [
            "recipe.yaml:15: warmup[1].httpGet.port: expected an integer from 1 to 65535 or the name "
            "of a port, got 'htp'; container.ports has http"
        ],
    ),
    "port as a string": (
        changed("port: http}", "port: '8080'}"),
        [
            "recipe.yaml:10: container.readinessProbe.httpGet.port: "
            "expected an integer from 1 to 65535 or the name of a port, got '8080'"
        ],
    ),
    "name of a gRPC port": (
        changed(PROBE, "    grpc: {port: http}\n"),
        ["recipe.yaml:10: container.readinessProbe.grpc.port: expected an integer from 1 to 65535, got 'http'"],
    ),
    "no port": (
        changed("path: /ready, port: http", "path: /ready"),
        [
            "recipe.yaml:10: container.readinessProbe.httpGet.port: missing: "
            "expected an integer from 1 to 65535 or the name of a port"
        ],
    ),
    "path with a space": (
        changed("/ready", "/rea dy"),
        [
            "recipe.yaml:10: container.readinessProbe.httpGet.path: "
            "expected a path without spaces, such as /health?full=1, got '/rea dy'"
        ],
    ),
    "header of two lines": (
        changed("port: http}", 'port: http, httpHeaders: [{name: A, value: "b\\r\\nC: d"}]}'),
        [
            "recipe.yaml:10: container.readinessProbe.httpGet.httpHeaders[0].value: "
            "expected a string of one line, got 'b\\r\\nC: d'"
        ],
    ),
    "period of nothing": (
        changed(PROBE, PROBE + "    periodSeconds: 0\n"),
        ["recipe.yaml:11: container.readinessProbe.periodSeconds: expected an integer from 1 to 2147483647, got 0"],
    ),
    "successes at startup": (
        changed("  readiness", "  startupProbe:\n    successThreshold: 2\n    grpc: {port: 1}\n  readiness"),
        ["recipe.yaml:10: container.startupProbe.successThreshold: expected 1, as Kubernetes does in a startupProbe"],
    ),
    "command of no words": (
        BASE + "beforeCheckpoint:\n  - exec: {command: []}\n",
        [
            "recipe.yaml:14: beforeCheckpoint[0].exec.command: "
            "expected a list of strings with at least one, got an empty list"
        ],
    ),
    "step by TCP": (
        BASE + "warmup:\n  - tcpSocket: {port: http}\n",
        [
            "recipe.yaml:14: warmup[0]: expected a mapping with exactly one of httpGet and exec, "
            "got a mapping with tcpSocket",
            "recipe.yaml:14: warmup[0].tcpSocket: unknown key: "
            "expected one of httpGet, exec, repeat, concurrency, timeoutSeconds, until, limitSeconds",
        ],
    ),
    "step by nothing at all": (
        BASE + "warmup:\n  - exec: {command: [a]}\n    tcpSocket:\n",
        [
            "recipe.yaml:15: warmup[0].tcpSocket: unknown key: "
            "expected one of httpGet, exec, repeat, concurrency, timeoutSeconds, until, limitSeconds",
        ],
    ),
    "time-out": (
        BASE + "warmup:\n  - exec: {command: [a]}\n    timeoutSeconds: .inf\n",
        ["recipe.yaml:15: warmup[0].timeoutSeconds: expected a number of seconds above 0, at most 86400, got '.inf'"],
    ),
    "limit of a step that is repeated until nothing": (
        BASE + "warmup:\n  - exec: {command: [a]}\n    limitSeconds: 9\n",
        [
            "recipe.yaml:15: warmup[0].limitSeconds: "
            "is for a step with until: steady; timeoutSeconds bounds an attempt",
        ],
    ),
    # between values
    "port twice": (
        changed("containerPort: 8080}", "containerPort: 8080}\n    - {containerPort: 8080, protocol: TCP}"),
        [
            "recipe.yaml:9: container.ports[1].containerPort: 8080/TCP is given twice, in ports[0] and here: delete one"
        ],
    ),
    "port's name twice": (
        changed("containerPort: 8080}", "containerPort: 8080}\n    - {containerPort: 80, name: http}"),
        ["recipe.yaml:9: container.ports[1].name: http is given twice, in ports[0] and here: delete one"],
    ),
    "request above its limit": (
        changed("  env:", "  resources: {limits: {memory: 512Mi}, requests: {memory: 1Gi, cpu: 1}}\n  env:"),
        ["recipe.yaml:5: container.resources.requests.memory: expected at most the limit, 512Mi, got 1Gi"],
    ),
    "half a byte": (
        changed("  env:", "  resources: {limits: {memory: 512m}}\n  env:"),
        [
            "recipe.yaml:5: container.resources.limits.memory: "
            "expected whole bytes, got 512m; the suffix m means thousandths, M and Mi mean millions"
        ],
    ),
    "root that must not be": (
        changed("  env:", "  securityContext: {runAsNonRoot: true, runAsUser: 0}\n  env:"),
        [
            "recipe.yaml:5: container.securityContext.runAsUser: "
            "expected a user id other than 0, because runAsNonRoot is true"
        ],
    ),
    "a group without a user": (
        changed("  env:", "  securityContext: {runAsGroup: 1000}\n  env:"),
        [
            "recipe.yaml:5: container.securityContext.runAsGroup: "
            "expected runAsUser as well: a runtime accepts a group only together with a user"
        ],
    ),
    "privileged without escalation": (
        changed("  env:", "  securityContext: {privileged: true, allowPrivilegeEscalation: false}\n  env:"),
        [
            "recipe.yaml:5: container.securityContext.allowPrivilegeEscalation: "
            "expected true, because privileged is true"
        ],
    ),
    # what a Deployment has and a recipe cannot
    "device": (
        changed("  env:", "  resources: {limits: {nvidia.com/gpu: 1}}\n  env:"),
        [
            "recipe.yaml:5: container.resources.limits.nvidia.com/gpu: not accepted: "
            "a device cannot be checkpointed. Delete the key if the program starts without the device."
        ],
    ),
    "post-start hook": (
        changed("  env:", "  lifecycle:\n    postStart: {exec: {command: [a]}}\n  env:"),
        [
            "recipe.yaml:6: container.lifecycle.postStart: not accepted: "
            "a restored container has been started long ago. Make the command the first step of warmup."
        ],
    ),
    "terminal": (
        changed("  env:", "  tty: true\n  env:"),
        ["recipe.yaml:5: container.tty: expected false, got true"],
    ),
    "place of the termination message": (
        changed("  env:", "  terminationMessagePath: /tmp/end\n  env:"),
        ["recipe.yaml:5: container.terminationMessagePath: expected /dev/termination-log, got '/tmp/end'"],
    ),
    # the text itself
    "empty": (
        "# nothing\n",
        ["recipe.yaml:1: expected a mapping with apiVersion, name, container and image, got nothing"],
    ),
    "a list": (
        "\n- 1\n",
        ["recipe.yaml:2: expected a mapping with apiVersion, name, container and image, got [1]"],
    ),
    "syntax": (
        changed("name: java-app\n", "name: java: app\n"),
        ["recipe.yaml:2:11: mapping values are not allowed here"],
    ),
    "tab": (
        changed("  env:", "\tenv:"),
        ["recipe.yaml:5:1: found character '\\t' that cannot start any token, while scanning for the next token"],
    ),
    "open bracket": (
        "a: [1,\n",
        ["recipe.yaml:2:1: expected the node content, but found '<stream end>', while parsing a flow node"],
    ),
    "control character": (
        "name: a\nb: \x01\n",
        ["recipe.yaml:2:4: found the character '\\x01', which YAML does not allow"],
    ),
    "escape beyond Unicode": (
        'a: "\\UFFFFFFFF"\n',
        ["recipe.yaml: Python int too large to convert to C int"],
    ),
    "several documents": (
        BASE + "---\n" + BASE,
        ["recipe.yaml:14: the second document begins here; a recipe has one"],
    ),
    "encoding": (
        BASE.encode("utf-16"),
        ["recipe.yaml:1: found the byte 0xff"],
    ),
    "Latin-1": (
        changed("value: prod", "value: prêt").encode("latin-1"),
        ["recipe.yaml:6: found the byte 0xea"],
    ),
    "tag": (
        changed("value: prod", "value: !secret prod"),
        ["recipe.yaml:6: container.env[0].value: the tag !secret is not supported: delete it"],
    ),
    "alias without an anchor": (
        changed("value: prod", "value: *mode"),
        ["recipe.yaml:6:27: the alias *mode has no anchor before it"],
    ),
    "alias in itself": (
        "a: &a [*a]\n",
        ["recipe.yaml:1:8: the alias *a has no anchor before it"],
    ),
    "alias bomb": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        ["recipe.yaml:1:37: more than 100000 values, including those of aliases"],
    ),
    "depth": (
        "[" * 1000,
        ["recipe.yaml:1:66: values are nested more than 64 deep"],
    ),
    "NUL": (
        changed("value: prod", 'value: "a\\0"'),
        [
            "recipe.yaml:6: container.env[0].value: "
            "a string may contain neither a NUL nor half a surrogate pair"
        ],
    ),
    "half of a surrogate pair": (
        changed("value: prod", 'value: "\\ud800"'),
        [
            "recipe.yaml:6: container.env[0].value: "
            "a string may contain neither a NUL nor half a surrogate pair"
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_a_bad_recipe(text: str | bytes, expected: list[str]) -> None:
    assert details(text) == expected


def test_all_mistakes_at_once_in_the_order_of_the_lines() -> None:
    text = changed("name: java-app\n", "nam: java-app\n").replace("8080", "0").replace("prod", "1")
    assert details(text) == [
        "recipe.yaml:1: name: missing: expected a name of at most 63 lower-case letters, digits and '-', "
        "such as java-app",
        "recipe.yaml:2: nam: unknown key: did you mean name?",
        'recipe.yaml:6: container.env[0].value: expected a string, got 1; quote it: "1"',
        "recipe.yaml:8: container.ports[0].containerPort: expected an integer from 1 to 65535, got 0",
    ]


def test_many_mistakes_are_cut_short() -> None:
    lines = details(BASE + "".join(f"key{n}: x\n" for n in range(60)))
    assert len(lines) == 51
    assert lines[-1] == "... and 10 more"


def test_the_error_counts_the_mistakes_and_says_where_to_look() -> None:
    with pytest.raises(RecipeError, match=r"^recipe\.yaml has 2 mistakes$") as caught:
        load(BASE + "a: 1\nb: 2\n")
    assert "warmstart schema" in caught.value.hint


def test_a_manifest_is_told_from_a_recipe() -> None:
    with pytest.raises(RecipeError, match=r"^recipe\.yaml is a Kubernetes manifest, not a recipe$") as caught:
        load("apiVersion: apps/v1\nkind: Deployment\nspec: {}\n")
    assert "warmstart init" in caught.value.hint


def test_a_missing_file() -> None:
    with pytest.raises(RecipeError, match=r"^cannot read 'no\.yaml': No such file or directory$"):
        load_recipe(Path("no.yaml"))


def test_a_path_that_no_file_can_have() -> None:
    with pytest.raises(RecipeError, match=r"^cannot read 'a\\x00b': embedded null byte$"):
        load_recipe(Path("a\0b"))


def test_a_directory() -> None:
    RECIPE.mkdir()
    with pytest.raises(RecipeError, match=r"^recipe\.yaml is a directory$"):
        load_recipe(RECIPE)


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(RecipeError, match=r": File name too long$"):
        load_recipe(Path("x" * 300))


def test_a_file_that_is_too_large() -> None:
    with pytest.raises(RecipeError, match=r"^recipe\.yaml is too large: the limit is 1 MiB$"):
        load(BASE + "# " + "x" * 2**20)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(BASE.encode())))
    assert load_recipe(Path("-")).source is None
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a: [")))
    with pytest.raises(RecipeError, match=r"^<stdin> is not valid YAML$"):
        load_recipe(Path("-"))


def test_a_byte_order_mark_and_other_line_ends() -> None:
    assert load(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()).name == "java-app"


def test_an_alias_stands_for_its_anchor() -> None:
    text = changed("  readinessProbe:\n" + PROBE, "  startupProbe: &probe\n" + PROBE + "  readinessProbe: *probe\n")
    container = load(text).container
    assert container.startup_probe == container.readiness_probe == Probe(HttpGet(8080, path="/ready"))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("app", "app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("localhost:5000/team/my_app.x--y:V1", "localhost:5000/team/my_app.x--y:V1"),
        ("'[::1]:5000/app'", "[::1]:5000/app:latest"),
        ("Registry.Example.com/app", "Registry.Example.com/app:latest"),
    ],
)
def test_names_of_images(name: str, made: str) -> None:
    assert load(changed("registry.example.com/team/java-app:1.0-warm", name)).image == parse_reference(made)


@pytest.mark.parametrize(
    "name", ["App", "a/B", "a:", ":a", "/a", "a/", "a//b", "a___b", "-a", "a-", "a:-b", "'a b'", "a:b:c", "a." + ":x"]
)
def test_what_is_no_name_of_an_image(name: str) -> None:
    lines = details(changed("registry.example.com/team/java-app:1.0-warm", f'"{name}"'))
    assert [line.partition(": image.name: ")[2].partition(", got")[0] for line in lines] == [IMAGE_NAME]


def test_a_container_without_a_probe_settles(tmp_path: Path) -> None:
    text = changed("  readinessProbe:\n" + PROBE, "") + "build: {settled: {quietSeconds: 3}}\n"
    recipe = load(text)
    assert recipe.container.settled == Settled(quiet_s=3, timeout_s=300)
    known = with_ports(recipe, [9000, 9100])
    assert known.container.settled == Settled(quiet_s=3, timeout_s=300, ports=(9000, 9100))
    again = parse_recipe(known.document, "image")
    assert again.container.settled == known.container.settled
    assert with_ports(load(BASE), [9000]) == load(BASE)


def test_steps_that_are_repeated_until_the_application_is_steady() -> None:
    steps = """\
warmup:
  - {httpGet: {port: http}, until: steady}
  - {httpGet: {port: http}, repeat: 50, until: steady, limitSeconds: 9}
  - {exec: {command: [load]}, until: steady}
  - {httpGet: {port: http}}
"""
    found = [(step.repeat, step.steady_limit_s) for step in load(BASE + steps).warmup]
    assert found == [(500, 120), (50, 9), (1, 120), (1, None)]
