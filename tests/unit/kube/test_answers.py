"""Answers of an API server that are not as they should be: an error names the request and the place, whatever it is."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_api import POD, FakeApi, Reply, Stream, run_api

from warmstart.core.errors import ClusterError, WarmstartError
from warmstart.engine.cluster import KubernetesContainer
from warmstart.kube.answer import Answer, parse_answer
from warmstart.kube.apply import apply_manifests
from warmstart.kube.client import Cluster
from warmstart.kube.helper import Helper
from warmstart.kube.pods import Pod, list_cautions, make_copy, parse_pod, place_pod, strip_pod
from warmstart.kube.refusal import RefusedError
from warmstart.kube.trial import find_pools
from warmstart.pods.checkpoint import find_target

PODS = "/api/v1/namespaces/shop/pods"
CHECKPOINT = "/api/v1/nodes/node-1/proxy/checkpoint/shop/app/app"
EXEC = f"GET {PODS}/app/exec"
ABOUT = {"containerRuntimeVersion": "cri-o://1", "kubeletVersion": "v1", "osImage": "Linux", "architecture": "amd64"}
NODE = {
    "metadata": {"name": "node-1"},
    "spec": {},
    "status": {"nodeInfo": ABOUT, "conditions": [{"type": "Ready", "status": "True"}]},
}
RESOURCES = {"resources": [{"name": "pods", "kind": "Pod", "namespaced": True}]}
RUBBISH = (None, True, 1, -1.5, "x", "", [], [1], [None], [[]], {}, {"a": 1}, {"name": []})


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return value
    copied = copy.copy(document)
    copied[path[0]] = changed(document[path[0]], path[1:], value)
    return copied


def paths_of(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(document, dict | list):
        for key, child in document.items() if isinstance(document, dict) else enumerate(document):
            yield from paths_of(child, (*path, key))


def a_pod() -> Pod:
    return parse_pod(Answer(copy.deepcopy(POD), "it"))


def use_pod(pod: Pod) -> None:
    """All that is done with a pod's manifest."""
    pod.explain(), pod.stuck, pod.labels, pod.annotations, pod.controller
    with contextlib.suppress(ClusterError):
        pod.find_container(None)
    list_cautions(pod, "app")
    manifest = make_copy(strip_pod(pod), "app", "app:2", name="other")
    place_pod(manifest, "node-2", there=True)
    json.dumps(manifest)


@pytest.mark.parametrize("path", list(paths_of(POD)), ids=str)
def test_a_pod_of_any_form_is_read_or_refused(path):
    for value in RUBBISH:
        with contextlib.suppress(ClusterError):
            use_pod(parse_pod(Answer(changed(POD, path, value), "it")))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_anything_is_a_pod_or_refused(value):
    for document in (value, {**POD, "metadata": value}, {**POD, "spec": value}, {**POD, "status": value}):
        with contextlib.suppress(ClusterError):
            use_pod(parse_pod(Answer(document, "it")))


def test_a_pod_without_an_end_is_refused():
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(ClusterError, match="more than 64 levels deep"):
        parse_pod(Answer({**POD, "spec": {**POD["spec"], "x": deep}}, "it"))


CALLS: dict[str, tuple[str, Any, Callable[[Cluster], object]]] = {
    "get a pod": (f"GET {PODS}/app", POD, lambda c: c.get_pod("shop", "app")),
    "find a target": (f"GET {PODS}/app", POD, lambda c: find_target(c, "app", None)),
    "list pods": (f"GET {PODS}", {"items": [POD]}, lambda c: c.list_pods("shop", selector="a=b", node="n")),
    "create a pod": (f"POST {PODS}", POD, lambda c: c.create_pod(POD)),
    "patch a pod": (f"PATCH {PODS}/app", POD, lambda c: c.patch_pod("shop", "app", {})),
    "ask for a state": (f"GET {PODS}/app", POD, lambda c: KubernetesContainer(c, a_pod(), "app", 0.0).state()),
    "list nodes": ("GET /api/v1/nodes", {"items": [NODE]}, find_pools),
    "find a resource": ("GET /api/v1", RESOURCES, lambda c: list(apply_manifests(c, [POD]))),
    "take a checkpoint": (
        f"POST {CHECKPOINT}",
        {"items": ["/var/lib/kubelet/checkpoints/checkpoint-a.tar"]},
        lambda c: c.checkpoint(a_pod(), "app", 1.0),
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_of_any_form_is_understood_or_refused(call):
    line, good, ask = CALLS[call]
    api = FakeApi({f"PATCH {PODS}/app": Reply(POD)})
    with run_api(api) as cluster:
        for path in paths_of(good):
            for value in RUBBISH:
                api.answers[line] = Reply(changed(good, path, value))
                with contextlib.suppress(ClusterError):
                    ask(cluster)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(b""), "is not JSON"),
        (Reply(b"<html>"), "is not JSON"),
        (Reply(b"\xff"), "is not JSON"),
        (Reply(b"[" * 100_000), "is not JSON"),
        (Reply(b"1" * 5000), "is not JSON"),
        (Reply(b'{"metadata": NaN}'), "is not JSON"),
        (Reply(b'{"metadata": "\\ud800"}'), "is not JSON"),
        (Reply(b"[]"), r"is of an unknown form: it is not an object but \[\]"),
        (Reply(b"{}", 500), "could not"),
        (Reply(b'{"message": null}', 500), "could not"),
        (Reply(b"[]", 503), "could not"),
        (Reply(b"", 302, {"Location": "http://127.0.0.1:1/"}), "could not .* HTTP 302"),
        (Reply(b"{", 200, {"Content-Length": "100"}), "failed"),
    ],
)
def test_what_is_no_answer_is_told_with_its_request(call, reply, said):
    line, _, ask = CALLS[call]
    method, path = line.split()
    with run_api(FakeApi({line: reply})) as cluster, pytest.raises(ClusterError, match=said) as caught:
        ask(cluster)
    assert f"{method} {path}" in caught.value.brief


@pytest.mark.parametrize(
    ("call", "path", "value", "said"),
    [
        ("get a pod", ("metadata", "uid"), None, f"answer to GET {PODS}/app has no metadata.uid"),
        ("get a pod", ("status", "podIP"), 5, f"answer to GET {PODS}/app is of an unknown form: status.podIP is not a"),
        ("get a pod", ("metadata", "annotations", "a.b/c"), 1, "metadata.annotations['a.b/c'] is not a string but 1"),
        ("get a pod", ("spec", "containers"), [], "spec.containers is not a list of containers"),
        ("list pods", ("items", 0, "spec", "containers", 0, "name"), None, "has no items[0].spec.containers[0].name"),
        (
            "list nodes",
            ("items", 0, "status", "nodeInfo"),
            {},
            "has no items[0].status.nodeInfo.containerRuntimeVersion",
        ),
        ("find a resource", ("resources", 0, "kind"), None, "answer to GET /api/v1 has no resources[0].kind"),
        ("take a checkpoint", ("items",), [], f"answer to POST {CHECKPOINT} has no items[0]"),
        ("take a checkpoint", ("items", 0), 1, "items[0] is not a string but 1"),
    ],
)
def test_the_request_and_the_place_are_named(call, path, value, said):
    line, good, ask = CALLS[call]
    with run_api(FakeApi({line: Reply(changed(good, path, value))})) as cluster, pytest.raises(ClusterError) as caught:
        ask(cluster)
    assert said in caught.value.brief


@pytest.mark.parametrize("address", ["", "evil.example.com/?", "10.0.0.1@evil", "::1]:1/"])
def test_a_kubelet_is_asked_at_an_address_and_nowhere_else(address):
    forbidden = 'User "me" cannot create resource "nodes/proxy" in API group ""'
    api = FakeApi({f"POST {CHECKPOINT}": Reply({"message": forbidden}, 403)})
    pod = parse_pod(Answer(changed(POD, ("status", "hostIP"), address), "it"))
    with run_api(api) as cluster, pytest.raises(RefusedError) as caught:
        cluster.checkpoint(pod, "app", 1.0)
    assert "has no IP address" in caught.value.details[0]


def test_a_list_comes_in_pages():
    def page(query: str) -> Reply:
        if "continue=more" in query:
            return Reply({"items": [POD]})
        return Reply({"items": [POD], "metadata": {"continue": "more"}})

    with run_api(FakeApi({f"GET {PODS}": page})) as cluster:
        assert len(cluster.list_pods("shop")) == 2


def test_a_list_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr("warmstart.kube.client._MOST_PAGES", 3)
    endless = Reply({"items": [], "metadata": {"continue": "more"}})
    with run_api(FakeApi({f"GET {PODS}": endless})) as cluster, pytest.raises(ClusterError, match="has no end"):
        cluster.list_pods("shop")


def test_an_answer_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr("warmstart.kube.exchange.ANSWER_LIMIT_BYTES", 1000)
    reply = Reply(b" " * 2000 + json.dumps(POD).encode())
    with run_api(FakeApi({f"GET {PODS}/app": reply})) as cluster, pytest.raises(ClusterError, match="longer than 1000"):
        cluster.get_pod("shop", "app")


def test_a_refusal_is_cut_and_cannot_steer_a_terminal():
    reply = Reply(b"\x1b[31m" + b"x" * (3 << 20), 500)
    with run_api(FakeApi({f"GET {PODS}/app": reply})) as cluster, pytest.raises(RefusedError) as caught:
        cluster.get_pod("shop", "app")
    assert "\x1b" not in caught.value.brief
    assert len(caught.value.brief) < 100_000


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_is_a_path_is_refused(name):
    with run_api(FakeApi({})) as cluster, pytest.raises(ClusterError, match="is no name of an object"):
        cluster.get_pod("shop", name)


def test_a_name_is_one_part_of_a_path():
    api = FakeApi({})
    with run_api(api) as cluster, pytest.raises(RefusedError):
        cluster.get_pod("shop", "../../nodes/x")
    assert api.seen == [f"GET {PODS}/..%2F..%2Fnodes%2Fx"]


# Commands

SUCCESS = (3, b'{"status": "Success"}')


def run(cluster: Cluster, command: str = "stat") -> tuple[int, bytes]:
    out: list[bytes] = []
    end = cluster.exec(a_pod(), "app", [command], write=out.append, timeout_s=10)
    return end.exit_code, b"".join(out)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"status": "Success"}, 0),
        ({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}}, 7),
    ],
)
def test_the_end_of_a_command_is_read(status, code):
    stream = Stream([(1, b"out"), (3, json.dumps(status).encode())])
    with run_api(FakeApi({EXEC: stream})) as cluster:
        assert run(cluster) == (code, b"out")


FAILURE = {"status": "Failure", "message": "no", "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}}


@pytest.mark.parametrize("path", list(paths_of(FAILURE)), ids=str)
def test_the_end_of_a_command_of_any_form_is_read_or_refused(path):
    for value in (*RUBBISH, "9" * 5000, "-1", "٣"):
        stream = Stream([(3, json.dumps(changed(FAILURE, path, value)).encode())])
        with run_api(FakeApi({EXEC: stream})) as cluster, contextlib.suppress(ClusterError):
            assert run(cluster)[0] == 7


@pytest.mark.parametrize("frames", [[], [(1, b"x")], [(3, b"")], [(3, b"no JSON")], [(7, b"?")], [(3, b"[]")]])
def test_a_stream_that_ends_otherwise_is_an_error(frames):
    with run_api(FakeApi({EXEC: Stream(frames)})) as cluster, pytest.raises(ClusterError, match="run stat in the pod"):
        run(cluster)


def test_what_a_command_writes_is_bounded():
    stream = Stream([*[(1, b"x" * (1 << 20))] * 3, SUCCESS])
    with run_api(FakeApi({EXEC: stream})) as cluster:
        result = KubernetesContainer(cluster, a_pod(), "app", 0.0).exec(["yes"], 10)
    assert len(result.stdout) == 1 << 20


def test_a_message_that_is_too_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("warmstart.kube.client._MESSAGE_LIMIT_BYTES", 1000)
    stream = Stream([(1, b"x" * 2000), SUCCESS])
    with run_api(FakeApi({EXEC: stream})) as cluster, pytest.raises(ClusterError, match="longer than 1000 bytes"):
        run(cluster)


@pytest.mark.parametrize("said", [b"", b"x", b"-1", b"1 2", b"9" * 40, b"1.5", "٣".encode()])
def test_a_size_that_is_none_is_refused(said):
    with run_api(FakeApi({EXEC: Stream([(1, said), SUCCESS])})) as cluster:
        helper = Helper(cluster, a_pod(), "/checkpoints")
        with pytest.raises(ClusterError, match=r"as the size of /checkpoints/checkpoint-a\.tar"):
            helper.read_size("/checkpoints/checkpoint-a.tar")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/checkpoints/../etc/shadow",
        "/checkpoints/..",
        "/checkpoints/checkpoint-a.tar/../b",
        "/checkpoints/other.tar",
        "/checkpoints/checkpoint-\n.tar",
        "checkpoint-a.tar",
        "",
    ],
)
def test_nothing_but_a_checkpoint_is_read_or_removed(path):
    with run_api(FakeApi({})) as cluster:
        helper = Helper(cluster, a_pod(), "/checkpoints")
        for use in (helper.read_size, helper.remove, lambda name: helper.read(name, len)):
            with pytest.raises(ClusterError, match="the kubelet"):
                use(path)


def test_what_is_read_by_its_type_is_told_by_its_path():
    answer = parse_answer(b'{"a": [{"b/c": 1}], "d": null}', "it")
    assert answer.at("a").items()[0].at("b/c").number() == 1
    assert answer.at("d", "e").text("default") == "default"
    with pytest.raises(WarmstartError, match=r"^it has no d\.e$"):
        answer.at("d", "e").text()
    with pytest.raises(WarmstartError, match=r"a\[0\]\['b/c'\] is not a string but 1$"):
        answer.at("a").items()[0].at("b/c").text()
