"""The pod that is tried on a node: it needs no objects of the namespace."""

from __future__ import annotations

from warmstart.kube.settings import BuildInfo
from warmstart.kube.trial import _make_pod

CONFIG = {"kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"MODE": "a $(B)"}}


def test_a_trial_has_stand_ins_for_all_objects() -> None:
    env = [
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
        {"name": "PORT", "value": "80"},
    ]
    mounts = [{"name": "conf", "mountPath": "/conf"}]
    volumes = [
        {"name": "conf", "configMap": {"name": "conf"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "x"}},
    ]
    build = BuildInfo(
        "shop",
        "shop:1",
        {"image": "x", "env": env, "envFrom": [{"configMapRef": {"name": "conf"}}], "volumeMounts": mounts},
        pod={"volumes": volumes, "initContainers": [{"name": "wait"}]},
        stand_ins={"objects": [CONFIG], "secrets": {"db": {"password": None}}},
    )

    spec = _make_pod(build, "node", "trials")["spec"]
    assert spec["volumes"] == [{"name": "conf", "emptyDir": {}}, {"name": "data", "emptyDir": {}}]
    assert "initContainers" not in spec
    (container,) = spec["containers"]
    assert container["volumeMounts"] == mounts
    # A reference in a value is none of the pod's.
    assert container["env"] == [{"name": "MODE", "value": "a $$(B)"}, {"name": "PORT", "value": "80"}]
    assert "envFrom" not in container
