"""Which right it was that was missing."""

from __future__ import annotations

import json

import pytest

from warmstart.kube.refusal import RefusedError, find_needs, ignoring_absence, make_refusal

NODES = (
    'nodes "node-1" is forbidden: User "system:serviceaccount:ci:build" cannot create resource "nodes/proxy" '
    'in API group "" at the cluster scope'
)
PODS = 'pods "x" is forbidden: User "jane" cannot get resource "pods/exec" in API group "" in the namespace "warmstart"'
DEPLOYMENTS = (
    'deployments.apps "x" is forbidden: User "jane" cannot patch resource "deployments" in API group "apps" '
    'in the namespace "shop"'
)
KUBELET = "Forbidden (user=jane, verb=create, resource=nodes, subresource(s)=[checkpoint proxy])\n"
OLD_KUBELET = "Forbidden (user=jane, verb=create, resource=nodes, subresource=checkpoint)\n"


@pytest.mark.parametrize(
    ("message", "needs"),
    [
        (NODES, "create nodes/proxy"),
        (PODS, "get pods/exec in the namespace warmstart"),
        (DEPLOYMENTS, "patch deployments.apps in the namespace shop"),
        (KUBELET, "create nodes/checkpoint"),
        (OLD_KUBELET, "create nodes/checkpoint"),
        # As it is quoted when a web socket is refused.
        (json.dumps(PODS), "get pods/exec in the namespace warmstart"),
        ('pods "x" not found', ""),
    ],
)
def test_the_missing_right_is_found(message, needs):
    assert find_needs(message) == needs


def test_a_status_is_read():
    error = make_refusal(403, json.dumps({"kind": "Status", "message": NODES}), "POST /checkpoint")
    assert error.brief == f"could not POST /checkpoint: {NODES}"
    assert error.hint.startswith("needs: create nodes/proxy")


def test_whole_objects_are_left_out():
    message = 'Job.batch "x" is invalid: spec.template: Invalid value: {"labels":{"a":"b: c"}}: field is immutable'
    error = make_refusal(422, json.dumps({"message": message}), "PATCH /x")
    assert error.brief.endswith("spec.template: Invalid value: {…}: field is immutable")


@pytest.mark.parametrize("body", ["", "null", "[]", '{"message": 1}', "<html>"])
def test_any_answer_becomes_an_error(body):
    assert make_refusal(500, body, "GET /").status == 500


@pytest.mark.parametrize("status", [404, 409])
def test_what_is_gone_may_be_ignored(status):
    with ignoring_absence():
        raise RefusedError(status, "gone")


def test_nothing_else_is_ignored():
    with pytest.raises(RefusedError), ignoring_absence():
        raise RefusedError(403, "forbidden")
