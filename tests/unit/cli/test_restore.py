"""`warmstart restore`: the pod of an image is shown first, and has only what the caller has named."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.checkpoint_archive import tar_of
from support.checkpoint_image import checkpoint, make_layout

from warmstart.cli import main as cli
from warmstart.cli import pods as cli_kube
from warmstart.core.yaml_document import read_documents
from warmstart.image.crio import CHECKPOINT_NAME

NAME = "registry.example.com/saved/app:1"
APP = {"name": "app", "image": NAME, "env": [{"name": "PASSWORD", "value": "hunter2"}]}
HOSTILE = {
    "metadata": {"name": "app", "namespace": "kube-system", "labels": {"app": "payments"}},
    "spec": {
        "hostNetwork": True,
        "nodeName": "control-plane",
        "serviceAccountName": "cluster-admin",
        "volumes": [{"name": "node", "hostPath": {"path": "/"}}],
        "containers": [
            APP,
            {"name": "more", "image": "evil.example/tool", "securityContext": {"privileged": True}},
        ],
    },
}
ASKED = ["image=registry.example.com/saved/app:1", "label=app=payments", "host-network", "node=control-plane"]
ASKED += ["service-account=cluster-admin", "host-path=/", "image=evil.example/tool", "privileged"]
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "here",
    "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],
    "users": [{"name": "u", "user": {}}],
}


@pytest.fixture
def restore(tmp_path: Path, monkeypatch, capsys) -> Callable[..., SimpleNamespace]:
    """Restore the image of a pod; `made` are the pods that would have been created, `pushed` the images."""
    (tmp_path / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    made, pushed = [], []

    def create(_cluster: object, manifest: dict, *_: object) -> object:
        made.append(manifest)
        # It has been shown by now.
        assert "kind: Pod" in capsys.readouterr().err
        return SimpleNamespace(pod=SimpleNamespace(namespace="", name="", node="", ip=""), ready_s=1.0)

    monkeypatch.setattr(cli_kube, "restore_pod", create)
    monkeypatch.setattr(cli_kube, "push_record", lambda _, record, **__: pushed.append(str(record.name)))

    def run(pod: dict, *arguments: str) -> SimpleNamespace:
        layout = tmp_path / "image"
        if not layout.exists():
            annotations = {CHECKPOINT_NAME: "app", "dev.warmstart.pod": json.dumps(pod)}
            make_layout(layout, tar_of(*checkpoint()), annotations=annotations)
        monkeypatch.setattr(cli.sys, "argv", ["warmstart", "restore", f"oci:{layout}", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return SimpleNamespace(
            status=int(ended.value.code or 0), out=captured.out, err=captured.err, made=made, pushed=pushed
        )

    return run


def allow(*names: str) -> list[str]:
    return [word for name in names for word in ("--allow", name)]


def test_all_that_is_refused_is_listed_at_once_with_the_command_that_allows_it(restore) -> None:
    done = restore(HOSTILE, "--name", "mine")
    assert (done.status, done.made, done.pushed) == (14, [], [])
    listed = [line.strip().partition(": ")[0] for line in done.err.splitlines() if line.startswith("  ")]
    assert sorted(listed) == sorted(ASKED)
    words = shlex.split(done.err.splitlines()[-1].partition(": warmstart ")[2])
    assert words[0] == "restore"
    assert words[2:4] == ["--name", "mine"]
    # The command does what it says.
    again = restore(HOSTILE, *words[2:])
    assert again.status == 0, again.err
    (pod,) = again.made
    assert pod["metadata"]["name"] == "mine"


def test_one_that_is_not_named_is_enough(restore) -> None:
    for left_out in ASKED:
        done = restore(HOSTILE, *allow(*(name for name in ASKED if name != left_out)))
        assert (done.status, done.made, done.pushed) == (14, [], [])
        assert f"  {left_out}: " in done.err


def test_the_namespace_is_the_contexts_or_the_callers(restore) -> None:
    assert restore(HOSTILE, *allow(*ASKED)).made[-1]["metadata"]["namespace"] == "shop"
    assert restore(HOSTILE, "-n", "other", *allow(*ASKED)).made[-1]["metadata"]["namespace"] == "other"


def test_a_dry_run_prints_the_pod_and_does_nothing(restore) -> None:
    done = restore(HOSTILE, "--dry-run", *allow(*ASKED))
    assert (done.status, done.made, done.pushed) == (0, [], [])
    (document,) = read_documents(done.out, "output")
    assert document.value["metadata"]["namespace"] == "shop"
    assert document.value["spec"]["hostNetwork"] is True
    assert "PASSWORD" in done.out
    assert "hunter2" not in done.out
    assert "hunter2" in restore(HOSTILE, "--dry-run", "--show-env", *allow(*ASKED)).out
    shown = json.loads(restore(HOSTILE, "--dry-run", "--json", *allow(*ASKED)).out)
    assert shown["spec"]["containers"][0]["image"] == NAME


def test_where_an_image_in_a_file_is_pushed_to_is_the_callers_to_say(restore) -> None:
    pod = {"metadata": {"name": "app"}, "spec": {"containers": [APP]}}
    assert restore(pod).status == 14
    done = restore(pod, *allow(f"image={NAME}"))
    assert (done.status, done.pushed) == (0, [NAME])


def test_an_image_that_is_replaced_while_it_is_read_is_refused(restore, monkeypatch) -> None:
    pod = {"metadata": {"name": "app"}, "spec": {"containers": [APP]}}
    real = cli_kube.read_record
    monkeypatch.setattr(cli_kube, "read_record", lambda *a, **k: replace(real(*a, **k), digest="sha256:" + "0" * 64))
    done = restore(pod, *allow(f"image={NAME}"))
    assert (done.status, done.made) == (10, [])
    assert "was replaced while it was read" in done.err
