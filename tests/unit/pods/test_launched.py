"""The pod of a build in which the launcher runs the application, and the launcher's part of it."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.fake_api import POD, FakeApi, Reply, Stream, run_api

from warmstart.core.errors import AppError, CheckpointError, ClusterError
from warmstart.engine.cluster import KubernetesContainer
from warmstart.image.manifest import Config, find_host_platform
from warmstart.image.selfrestore.pack import parse_manifest
from warmstart.kube.answer import Answer
from warmstart.kube.pods import parse_pod
from warmstart.kube.refusal import RefusedError
from warmstart.node.launcher import LauncherPrograms
from warmstart.pods import launched
from warmstart.pods.build_pod import make_build_spec
from warmstart.pods.launched import (
    NAME,
    Delivery,
    LaunchedPod,
    PodSecurityError,
    await_application,
    explaining_refusal,
    wrap_spec,
)
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Recipe

CONFIG = Config(find_host_platform(), entrypoint=("app", "$HOME"), cmd=("run",), user="app", working_dir="/srv")
MANIFEST = "warmstart 1\nargument app\nuser 1000\ngroup 1000\ngroups\npid 104\nstdout 1\nstderr 2\n"
PODS = "/api/v1/namespaces/shop/pods"
EXEC = f"GET {PODS}/app/exec"
SUCCESS = (3, b'{"status": "Success"}')


def fail(code: int, text: str) -> Stream:
    causes = [{"reason": "ExitCode", "message": str(code)}]
    status = {"status": "Failure", "message": "no", "details": {"causes": causes}}
    return Stream([(2, text.encode()), (3, json.dumps(status).encode())])


@pytest.fixture
def read(tmp_path):
    def call(**container: Any) -> Recipe:
        document = {
            "apiVersion": "warmstart/v1alpha1",
            "name": "shop",
            "container": {
                "image": "r.test/shop:1",
                "readinessProbe": {"exec": {"command": ["ready", "--now"]}},
                **container,
            },
            "volumes": [{"name": "data", "emptyDir": {}}],
            "securityContext": {"fsGroup": 2000},
            "image": {"name": "r.test/shop:1-warm"},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(document))
        return load_recipe(tmp_path / "recipe.yaml")

    return call


def wrap(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the specification of the wrapped pod, and its container."""
    spec = wrap_spec(make_build_spec(recipe, "shop-1", {}), recipe, CONFIG, "r.test/helper:1").spec
    (container,) = spec["containers"]
    return spec, container


def test_the_launcher_runs_the_application_and_no_probe_disturbs_it(read):
    mounts = [{"name": "data", "mountPath": "/data"}]
    context = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    spec, container = wrap(read(volumeMounts=mounts, securityContext=context, workingDir="/work"))
    options = ["--directory", "/work", "--user", "1000", "--groups", "2000", "--capabilities", "0", "--volume", "/data"]
    # The kubelet replaces references to variables, in words of the image as well.
    assert container["command"] == ["/.warmstart/launcher", "build", *options, "--", "app", "$$HOME", "run"]
    assert "readinessProbe" not in container
    assert container["workingDir"] == "/"
    assert container["securityContext"]["runAsUser"] == 0
    assert container["securityContext"]["runAsNonRoot"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "SYS_ADMIN" in container["securityContext"]["capabilities"]["add"]
    assert container["volumeMounts"][1:] == [
        {"name": NAME, "mountPath": "/.warmstart", "subPath": "programs", "readOnly": True},
        {"name": NAME, "mountPath": "/.warmstart/state", "subPath": "state"},
    ]
    assert spec["initContainers"][0]["image"] == "r.test/helper:1"
    assert spec["initContainers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["volumes"][-1] == {"name": NAME, "emptyDir": {}}


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ({"command": ["java", "$(A)"]}, ["java", "$(A)"]),
        ({"args": ["$(A)"]}, ["app", "$$HOME", "$(A)"]),
        ({"command": ["java"], "args": ["-jar"]}, ["java", "-jar"]),
    ],
)
def test_the_command_is_that_of_a_pod(read, words, command):
    _, container = wrap(read(env=[{"name": "A", "value": "1"}], **words))
    assert container["command"][container["command"].index("--") + 1 :] == command
    assert "args" not in container


def with_init(state: dict[str, Any]) -> Any:
    pod = json.loads(json.dumps(POD))
    pod["spec"]["initContainers"] = [{"name": NAME, "image": "helper"}]
    pod["status"]["initContainerStatuses"] = [{"name": NAME, "state": state}]
    return parse_pod(Answer(pod, "pod"))


@pytest.fixture
def programs(tmp_path) -> LauncherPrograms:
    (tmp_path / "launcher").write_bytes(b"l" * 10)
    (tmp_path / "criu").write_bytes(b"c" * 70_000)
    return LauncherPrograms(tmp_path)


def test_the_programs_are_delivered_once_the_init_container_runs(programs):
    def answer(query: str) -> Stream:
        count = re.search(r"head\+-c\+(\d+)", query)
        return Stream([(1, b"flags : fpu avx2\n"), SUCCESS], reads=int(count[1]) if count else 0)

    api = FakeApi({EXEC: answer})
    with run_api(api) as cluster:
        delivery = Delivery(cluster, programs)
        delivery(with_init({"waiting": {"reason": "PodInitializing"}}))
        assert api.seen == []
        for _ in range(2):
            delivery(with_init({"running": {}}))
    assert len(api.seen) == 4
    assert [("stdin=true" in one) for one in api.seen] == [False, True, True, False]
    assert bytes(api.stdin) == b"l" * 10 + b"c" * 70_000
    assert "avx2" in delivery.cpu_features


def test_agents_of_hooks_are_delivered_with_the_programs(programs, tmp_path):
    (tmp_path / "agent.py").write_bytes(b"a" * 5)
    agents = {"python/agents/agent.py": tmp_path / "agent.py"}

    def answer(query: str) -> Stream:
        count = re.search(r"head\+-c\+(\d+)", query)
        return Stream([SUCCESS], reads=int(count[1]) if count else 0)

    api = FakeApi({EXEC: answer})
    with run_api(api) as cluster:
        Delivery(cluster, programs, agents)(with_init({"running": {}}))
    assert bytes(api.stdin).endswith(b"c" * 10 + b"a" * 5)
    directory = "warmstart-launcher%2Fprograms%2Fhooks%2Fpython%2Fagents"
    assert ["mkdir" in one for one in api.seen] == [False, False, False, True, False, False]
    assert all(directory in one for one in api.seen[3:5])


def test_an_image_without_the_programs_for_it_is_named(programs):
    with run_api(FakeApi({EXEC: fail(127, "cat: not found")})) as cluster, pytest.raises(ClusterError) as caught:
        Delivery(cluster, programs)(with_init({"running": {}}))
    assert "cat failed in the init container" in caught.value.brief
    assert "--helper-image" in caught.value.hint


def contain(cluster: Any) -> KubernetesContainer:
    return KubernetesContainer(cluster, parse_pod(Answer(POD, "pod")), "app", 0.0)


def test_the_application_is_waited_for(read):
    with run_api(FakeApi({EXEC: Stream([(1, MANIFEST.encode()), SUCCESS])})) as cluster:
        found = await_application(contain(cluster), read(), CONFIG)
    assert (found.identity.pid, found.identity.user, found.working_dir) == (104, 1000, "/srv")


def test_an_application_that_is_root_and_must_not_be_is_refused(read):
    manifest = MANIFEST.replace("user 1000", "user 0").encode()
    with (
        run_api(FakeApi({EXEC: Stream([(1, manifest), SUCCESS])})) as cluster,
        pytest.raises(AppError, match="is root"),
    ):
        await_application(contain(cluster), read(securityContext={"runAsNonRoot": True}), CONFIG)


def test_an_application_that_does_not_start_is_shown(read, monkeypatch):
    monkeypatch.setattr(launched, "START_S", 0.3)
    log = {f"GET {PODS}/app/log": Reply(b"no such file"), f"GET {PODS}/app": Reply(POD)}
    api = FakeApi({EXEC: fail(70, "not yet"), **log})
    with run_api(api) as cluster, pytest.raises(AppError, match="could not start the application") as caught:
        await_application(contain(cluster), read(), CONFIG)
    assert caught.value.details == ("no such file",)


def test_probes_run_as_the_application_until_it_is_ready_or_asks_for_its_checkpoint(read):
    command = "&".join(f"command={word}" for word in ("%2Flauncher", "exec", "--directory", "%2F", "--", "ready"))
    answers = iter([fail(1, "not yet"), fail(1, "not yet"), Stream([SUCCESS]), Stream([SUCCESS])])
    running = {**POD["status"], "containerStatuses": [{"name": "app", "state": {"running": {}}}]}
    api = FakeApi({EXEC: lambda _: next(answers), f"GET {PODS}/app": Reply({**POD, "status": running})})
    container = read(readinessProbe={"exec": {"command": ["ready"]}, "periodSeconds": 1}).container
    with run_api(api) as cluster:
        pod = LaunchedPod(contain(cluster), "/", parse_manifest(MANIFEST))
        pod.await_ready(container, lambda: False)
        probes = [one for one in api.seen if "/exec" in one]
        assert len(probes) == 4
        assert all(command in one for one in probes)
        pod.await_ready(container, lambda: True)
        assert len([one for one in api.seen if "/exec" in one]) == 4


def test_a_dump_that_fails_says_why(tmp_path):
    api = FakeApi({EXEC: fail(70, "warmstart: CRIU cannot\nwarmstart: Error (x)")})
    with run_api(api) as cluster:
        pod = LaunchedPod(contain(cluster), "/", parse_manifest(MANIFEST))
        with pytest.raises(CheckpointError, match="could not dump the application: CRIU cannot") as caught:
            pod.dump(10)
        with pytest.raises(CheckpointError, match="could not read the changed files: CRIU cannot"):
            pod.fetch(tmp_path / "stream.tar")
    assert caught.value.details == ("Error (x)",)


def test_the_stream_is_written_as_it_comes(tmp_path: Path):
    frames = [(1, bytes(tarfile.BLOCKSIZE)), (1, b"x"), SUCCESS]
    with run_api(FakeApi({EXEC: Stream(frames)})) as cluster:
        LaunchedPod(contain(cluster), "/", parse_manifest(MANIFEST)).fetch(tmp_path / "stream.tar")
    assert (tmp_path / "stream.tar").read_bytes() == bytes(tarfile.BLOCKSIZE) + b"x"


def test_a_namespace_that_does_not_admit_it_is_explained():
    refusal = 'pods "a" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities'
    with (
        pytest.raises(PodSecurityError, match="the namespace shop does not admit") as caught,
        explaining_refusal("shop"),
    ):
        raise RefusedError(403, refusal)
    assert "restore: [runtime]" in caught.value.hint
    with pytest.raises(RefusedError, match="quota"), explaining_refusal("shop"):
        raise RefusedError(403, "exceeded quota")
