"""What of the machine the tools see: its policy for images, with all that the policy names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmstart.node.host_files import CA_BUNDLE, list_host_binds, list_host_files
from warmstart.node.keeper import Bind


@pytest.fixture
def host(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    return tmp_path / "host"


def put(host: Path, *paths: str, text: str = "") -> None:
    for path in paths:
        file = host / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def list_files(host: Path) -> dict[str, str]:
    return {inside: str(Path(outside).relative_to(host)) for inside, outside in list_host_files(host, host / "home")}


def test_a_machine_may_have_none_of_it(host):
    assert list_files(host) == {}
    assert list_host_binds(host, host / "home") == []


def test_names_and_certificates_are_the_machines(host, monkeypatch, tmp_path):
    put(host, "etc/hosts", "etc/resolv.conf", "etc/ssl/cert.pem")
    assert list_files(host) == {
        "/etc/hosts": "etc/hosts",
        "/etc/resolv.conf": "etc/resolv.conf",
        CA_BUNDLE: "etc/ssl/cert.pem",
    }
    put(host, "mine.pem")
    monkeypatch.setenv("SSL_CERT_FILE", f"{host}/mine.pem")
    assert list_files(host)[CA_BUNDLE] == "mine.pem"


@pytest.mark.parametrize(
    "path",
    [
        "policy.json",
        "registries.conf",
        "registries.conf.d/10-mirror.conf",
        "registries.d/default.yaml",
        "certs.d/registry:5000/ca.crt",
        "certs.d/registry:5000/client.key",
    ],
)
def test_the_policy_is_the_machines(host, path):
    put(host, f"etc/containers/{path}", f"home/.config/containers/{path}")
    assert list_files(host) == {
        f"/etc/containers/{path}": f"etc/containers/{path}",
        f"/root/.config/containers/{path}": f"home/.config/containers/{path}",
    }


def test_certificates_for_docker_are_the_machines(host):
    put(host, "etc/docker/certs.d/registry:5000/ca.crt")
    assert list_files(host) == {"/etc/docker/certs.d/registry:5000/ca.crt": "etc/docker/certs.d/registry:5000/ca.crt"}


def test_a_link_that_leads_nowhere_is_left_out(host):
    (host / "etc/containers/registries.d").mkdir(parents=True)
    (host / "etc/containers/registries.d/gone.yaml").symlink_to("nowhere")
    assert list_files(host) == {}


def test_keys_that_the_policy_names_are_there(host):
    rules = [
        {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/pki/one.gpg"},
        {"type": "signedBy", "keyType": "GPGKeys", "keyPaths": ["/keys/two.gpg", "/keys/missing.gpg"]},
        {"type": "sigstoreSigned", "fulcio": {"caPath": "/keys/ca.pem"}, "rekorPublicKeyPath": "/keys/rekor.pub"},
    ]
    policy = {"default": [{"type": "reject"}], "transports": {"docker": {"example.com": rules}}}
    put(host, "etc/containers/policy.json", text=json.dumps(policy))
    put(host, "etc/pki/one.gpg", "keys/two.gpg", "keys/ca.pem", "keys/rekor.pub")
    expected = {"/etc/pki/one.gpg", "/keys/two.gpg", "/keys/ca.pem", "/keys/rekor.pub"}
    assert set(list_files(host)) == {"/etc/containers/policy.json", *expected}


@pytest.mark.parametrize("text", ["", "{", "[1, null]", '{"keyPath": ["relative", 7]}'])
def test_a_policy_that_is_damaged_is_left_to_skopeo(host, text):
    put(host, "etc/containers/policy.json", text=text)
    assert set(list_files(host)) == {"/etc/containers/policy.json"}


def test_signatures_in_directories_are_there(host):
    text = "docker:\n  example.com:\n    lookaside: file:///var/lib/signatures/\n    sigstore: 'file:///nowhere'\n"
    put(host, "etc/containers/registries.d/example.yaml", text=text)
    put(host, "etc/containers/registries.d/root.yaml", text="default-docker:\n  lookaside: file:///\n")
    (host / "var/lib/signatures").mkdir(parents=True)
    assert list_host_binds(host, host / "home") == [Bind("/var/lib/signatures")]
