"""The control plane: etcd, the API server, the controllers and the scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from support.cluster.authority import Authority, identify, make_kubeconfig
from support.cluster.network import API_ADDRESS, SERVICES, Place
from support.cluster.part import Part, run_part

from warmstart.node.session import Session

# The port of the service `kubernetes` as well.
API_PORT = 443
CALL_S = 60.0
ETCD = "http://127.0.0.1:2379"
API_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
# The name of the API server at API servers of extensions.
FRONT_PROXY = "front-proxy-client"
# Metrics are read this often, instead of every 15 s.
AUTOSCALING_S = 1
ISSUER = "https://kubernetes.default.svc"


@contextlib.contextmanager
def run_control_plane(session: Session, program: Path, authority: Authority, state: Path) -> Iterator[None]:
    """Run the control plane in the session of the first node. It writes only to `state`, a new directory.

    Certificates of the authority identify users, and RBAC controls their permissions.
    """
    state.mkdir()
    with contextlib.ExitStack() as running:

        def run(name: str, arguments: list[str]) -> Part:
            return running.enter_context(run_part(session, name, [str(program), name, *arguments], state))

        run("etcd", _etcd(state))
        api_server = run("kube-apiserver", _api_server(state, authority))
        controllers, scheduler = _controllers(state, authority), _scheduler(state, authority)
        # Controllers exit if they do not find the API server.
        api_server.wait_until(lambda: _answers(session, program, state / "kube-controller-manager.kubeconfig"))
        run("kube-controller-manager", controllers)
        run("kube-scheduler", scheduler)
        yield


def _answers(session: Session, program: Path, kubeconfig: Path) -> bool:
    command = [program, "kubectl", "--kubeconfig", kubeconfig, "get", "--raw=/readyz"]
    return session.run(command, timeout_s=CALL_S, check=False).returncode == 0


def _etcd(state: Path) -> list[str]:
    return [
        f"--data-dir={state}/etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server(state: Path, authority: Authority) -> list[str]:
    addresses = [f"IP:{address}" for address in ("127.0.0.1", API_ADDRESS, Place(1).address)]
    addresses += [f"DNS:{name}" for name in API_NAMES]
    certificate, key = authority.issue("kube-apiserver", addresses=addresses).write(state, "kube-apiserver")
    client = authority.issue("kube-apiserver-kubelet-client", groups=["system:masters"])
    client_certificate, client_key = client.write(state, "kubelet-client")
    token_certificate, token_key = authority.issue("service-accounts").write(state, "service-accounts")
    proxy_certificate, proxy_key = authority.issue(FRONT_PROXY).write(state, FRONT_PROXY)
    return [
        f"--etcd-servers={ETCD}",
        f"--secure-port={API_PORT}",
        f"--advertise-address={Place(1).address}",
        f"--service-cluster-ip-range={SERVICES}",
        f"--client-ca-file={authority.certificate_file}",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--kubelet-certificate-authority={authority.certificate_file}",
        f"--kubelet-client-certificate={client_certificate}",
        f"--kubelet-client-key={client_key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={token_certificate}",
        f"--service-account-signing-key-file={token_key}",
        # API servers of extensions are reached at the addresses in their EndpointSlices. They know us by this name.
        "--enable-aggregator-routing=true",
        f"--proxy-client-cert-file={proxy_certificate}",
        f"--proxy-client-key-file={proxy_key}",
        f"--requestheader-client-ca-file={authority.certificate_file}",
        f"--requestheader-allowed-names={FRONT_PROXY}",
        "--requestheader-username-headers=X-Remote-User",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
    ]


def _controllers(state: Path, authority: Authority) -> list[str]:
    return [
        *_client(state, authority, "kube-controller-manager"),
        f"--service-account-private-key-file={state}/service-accounts.key",
        f"--root-ca-file={authority.certificate_file}",
        "--use-service-account-credentials=true",
        f"--horizontal-pod-autoscaler-sync-period={AUTOSCALING_S}s",
    ]


def _scheduler(state: Path, authority: Authority) -> list[str]:
    return _client(state, authority, "kube-scheduler")


def _client(state: Path, authority: Authority, part: str) -> list[str]:
    kubeconfig = state / f"{part}.kubeconfig"
    identity = authority.issue(f"system:{part}")
    server = f"https://{Place(1).address}:{API_PORT}"
    kubeconfig.write_text(make_kubeconfig(server, authority.certificate, identify(identity)))
    return [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"]
