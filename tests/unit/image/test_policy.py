"""Whether the machine's policy takes images as they are."""

from __future__ import annotations

import json

import pytest

from warmstart.core.reference import parse_reference
from warmstart.image.policy import HOME_POLICY, POLICY, accepts_anything

IMAGE = parse_reference("registry.example.com:5000/team/app:1")
ACCEPT, REJECT = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
SIGNED = [{"type": "sigstoreSigned", "keyPath": "/etc/key.pub"}]


def write(path, policy) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(policy if isinstance(policy, str) else json.dumps(policy))


def docker(default, **scopes):
    return {"default": default, "transports": {"docker": scopes}}


@pytest.mark.parametrize(
    ("policy", "accepted"),
    [
        ({"default": ACCEPT}, True),
        ({"default": REJECT}, False),
        ({"default": SIGNED}, False),
        ({}, False),
        (docker(REJECT, **{"registry.example.com:5000/team/app:1": ACCEPT}), True),
        (docker(REJECT, **{"registry.example.com:5000/team/app": ACCEPT}), True),
        (docker(REJECT, **{"registry.example.com:5000/team": ACCEPT}), True),
        (docker(REJECT, **{"registry.example.com:5000": ACCEPT}), True),
        (docker(REJECT, **{"*.example.com": ACCEPT}), True),
        (docker(REJECT, **{"*.com": ACCEPT}), True),
        (docker(REJECT, **{"": ACCEPT}), True),
        (docker(REJECT, **{"registry.example.com:5000/other": ACCEPT}), False),
        (docker(REJECT, **{"registry.example.com": ACCEPT}), False),
        # The narrowest scope decides.
        (docker(ACCEPT, **{"registry.example.com:5000/team": SIGNED, "registry.example.com:5000": ACCEPT}), False),
        (docker(ACCEPT, **{"registry.example.com:5000": ACCEPT + SIGNED}), False),
        ("not JSON", False),
        ("[]", False),
        ("[" * 100_000, False),
    ],
)
def test_the_narrowest_scope_decides(tmp_path, policy, accepted):
    write(tmp_path / POLICY, policy)
    assert accepts_anything(IMAGE, tmp_path, tmp_path / "home") == accepted


def test_without_a_policy_everything_is_accepted(tmp_path):
    assert accepts_anything(IMAGE, tmp_path, tmp_path / "home")


def test_the_users_policy_replaces_the_systems(tmp_path):
    write(tmp_path / POLICY, {"default": REJECT})
    write(tmp_path / "home" / HOME_POLICY, {"default": ACCEPT})
    assert accepts_anything(IMAGE, tmp_path, tmp_path / "home")
