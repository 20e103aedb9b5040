"""Client of a cluster's API server and of its kubelets; the only user of the package `kubernetes`.

The package reads the user's kubeconfig, with every way to authenticate, and opens WebSockets. Requests are plain JSON:
objects of the API have fields that no client knows yet, and must keep them.
API: https://kubernetes.io/docs/reference/kubernetes-api/; channels of a command over a web socket: StreamProtocolV4Name
in k8s.io/apimachinery/pkg/util/remotecommand/constants.go.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import urllib3

from warmstart.core.errors import ClusterError, HostError
from warmstart.core.text import printable
from warmstart.core.undo import call_to_the_end
from warmstart.kube.answer import Answer, parse_answer
from warmstart.kube.exchange import ask, fetch
from warmstart.kube.pods import MANAGED_BY, Pod, parse_pod
from warmstart.kube.refusal import RefusedError, ignoring_absence, make_refusal

if TYPE_CHECKING:
    from websocket import WebSocket

CALL_S = 60.0
KUBELET_PORT = 10250
# Minimum that a kubelet gives its runtime (runtimeRequestTimeout), for any request; and the time for its answer.
RUNTIME_S = 120.0
ANSWER_S = 10.0
_KUBECONFIG = "~/.kube/config"
_IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_STDIN, _STDOUT, _STDERR, _ERROR = 0, 1, 2, 3
_PIECE_BYTES = 1 << 15
_STDERR_LIMIT_BYTES = 1 << 16
_STATUS_LIMIT_BYTES = 1 << 16
_MESSAGE_LIMIT_BYTES = 32 << 20
_MESSAGE_CHARS = 1000
_POLL_S = 0.25
_LOG_HEAD_BYTES = 4096
_LOG_LIMIT_BYTES = 4 << 20
# Objects per page of a list.
_PAGE = 100
_MOST_PAGES = 2000


class PodTimeoutError(TimeoutError):
    """A pod did not reach a state in time.

    Attributes:
        pod: the pod as last seen.
    """

    def __init__(self, pod: Pod) -> None:
        super().__init__(f"the pod {pod.name} took too long")
        self.pod = pod


@dataclass(frozen=True)
class ExecEnd:
    """The end of a command in a container: its exit code and standard error."""

    exit_code: int
    stderr: str


class Head:
    """The beginning of a command's output; the rest is dropped, as a kubelet does with the output of probes."""

    def __init__(self, limit_bytes: int = 1 << 20) -> None:
        self.data = bytearray()
        self._limit_bytes = limit_bytes

    def write(self, data: bytes) -> None:
        """Add a piece."""
        self.data += data[: self._limit_bytes - len(self.data)]


class Cluster:
    """A cluster as the user reaches it; any thread may call it.

    Attributes:
        namespace: default namespace of objects.
    """

    def __init__(self, configuration: Any, namespace: str) -> None:
        from warmstart.kube import package

        self._configuration = configuration
        # A request without an answer is an error, not retried: a checkpoint must not be taken twice.
        configuration.retries = False
        self._pool = package.ApiClient(configuration).rest_client.pool_manager
        self.namespace = namespace

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout_s: float = CALL_S,
    ) -> Answer:
        """Make a request to the API server, and read its JSON answer.

        Args:
            method: HTTP method.
            path: path, such as `/api/v1/namespaces/default/pods`.
            body: a JSON document to send.
            query: parameters.
            content_type: media type of the body; for a patch, it names the kind of patch.
            timeout_s: time limit for silence of the server.

        Raises:
            RefusedError: the server refused.
            ClusterError: it could not be reached, did not answer, or did not answer with JSON.
        """
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {**self._headers(), "Accept": "application/json", "Content-Type": content_type}
        data = None if body is None else json.dumps(body).encode()
        return ask(self._pool, "the API server", method, url, headers, data, timeout_s)

    def list_items(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """Return the items of a list, requested in pages; errors as `request`."""
        query = {**(query or {}), "limit": str(_PAGE)}
        for _ in range(_MOST_PAGES):
            page = self.request("GET", path, query=query)
            yield from page.at("items").items()
            more = page.at("metadata", "continue").text("")
            if not more:
                return
            query["continue"] = more
        raise ClusterError(f"the API server's answer to GET {path} has no end")

    def get_pod(self, namespace: str, name: str) -> Pod:
        """Return the current state of a pod; errors as in `request`."""
        return parse_pod(self.request("GET", _pod_path(namespace, name)))

    def list_pods(self, namespace: str | None, *, selector: str = "", node: str = "") -> tuple[Pod, ...]:
        """Return the pods of a namespace (all if None) with these labels and on this node."""
        query = {"labelSelector": selector} if selector else {}
        if node:
            query["fieldSelector"] = f"spec.nodeName={node}"
        path = "/api/v1/pods" if namespace is None else f"/api/v1/namespaces/{_quote(namespace)}/pods"
        return tuple(map(parse_pod, self.list_items(path, query)))

    def create_pod(self, manifest: Mapping[str, Any]) -> Pod:
        """Create a pod; an interruption meanwhile removes it again. Errors as in `request`."""
        path = f"/api/v1/namespaces/{_quote(manifest['metadata']['namespace'])}/pods"
        return call_to_the_end(
            lambda: parse_pod(self.request("POST", path, manifest)),
            lambda pod: self.delete_pod(pod.namespace, pod.name, uid=pod.uid),
        )

    def create_secret(self, owner: Pod, data: Mapping[str, str]) -> None:
        """Create a Secret with a pod's name; the cluster removes it with the pod. Errors as in `request`.

        No other right is needed: neither to read Secrets nor to delete them.
        """
        reference = {"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid}
        metadata = {"name": owner.name, "labels": MANAGED_BY, "ownerReferences": [reference]}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "immutable": True, "data": dict(data)}
        self.request("POST", f"/api/v1/namespaces/{_quote(owner.namespace)}/secrets", secret)

    def patch_pod(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Pod:
        """Change a pod with a JSON merge patch (RFC 7386); errors as in `request`."""
        kind = "application/merge-patch+json"
        return parse_pod(self.request("PATCH", _pod_path(namespace, name), patch, content_type=kind))

    def delete_pod(self, namespace: str, name: str, *, uid: str | None = None) -> None:
        """Delete a pod; only the one with this `uid`, if given. A missing pod is no error."""
        options = {"preconditions": {"uid": uid}} if uid else {}
        with ignoring_absence():
            self.request("DELETE", _pod_path(namespace, name), options)

    def wait_pod(self, pod: Pod, until: Callable[[Pod], bool], timeout_s: float) -> Pod:
        """Wait for a pod to reach a state.

        Raises:
            PodTimeoutError: the time is over.
            RefusedError: the pod is gone, or may not be read.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            pod = self.get_pod(pod.namespace, pod.name)
            if until(pod):
                return pod
            if time.monotonic() > deadline:
                raise PodTimeoutError(pod)
            time.sleep(_POLL_S)

    def wait_gone(self, pod: Pod, timeout_s: float) -> bool:
        """Wait until a pod is removed; return whether it was in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with ignoring_absence():
                if self.get_pod(pod.namespace, pod.name).uid == pod.uid:
                    time.sleep(_POLL_S)
                    continue
            return True
        return False

    def log_tail(self, pod: Pod, container: str, lines: int) -> list[str]:
        """Return the last lines that a container wrote, oldest first; none if they cannot be read."""
        try:
            return self._read_log(pod, {"container": container, "tailLines": str(lines)})
        except ClusterError:
            return []

    def log_head(self, pod: Pod, container: str) -> list[str]:
        """Return the first lines that a container wrote; errors as in `request`."""
        return self._read_log(pod, {"container": container, "limitBytes": str(_LOG_HEAD_BYTES)})

    def _read_log(self, pod: Pod, query: Mapping[str, str]) -> list[str]:
        url = f"{self._configuration.host}{_pod_path(pod.namespace, pod.name)}/log?{urlencode(query)}"
        data = fetch(self._pool, "GET", url, self._headers(), None, CALL_S, _LOG_LIMIT_BYTES)
        text = data.decode(errors="replace")
        return text.rstrip("\n").split("\n") if text else []

    def exec(
        self,
        pod: Pod,
        container: str,
        command: Sequence[str],
        *,
        write: Callable[[bytes], object],
        stdin: bytes | None = None,
        timeout_s: float = math.inf,
        silence_s: float = math.inf,
    ) -> ExecEnd:
        """Run a command in a container to its end.

        Args:
            pod: the pod.
            container: the name of its container.
            command: the program and its arguments.
            write: gets its standard output, piece by piece.
            stdin: its standard input, which does not end: the command has to know how many bytes it is to read.
            timeout_s: time limit for all of it.
            silence_s: time limit for silence.

        Raises:
            TimeoutError: it did not end in time, or was silent for too long.
            RefusedError: the API server refused.
            ClusterError: it could not be run, or the connection broke.
        """
        from warmstart.kube import package

        words = [("command", word) for word in command]
        streams = ("stdin", "stdout", "stderr") if stdin else ("stdout", "stderr")
        query = [*words, ("container", container), *((stream, "true") for stream in streams)]
        what = f"run {command[0]} in the pod {pod.namespace}/{pod.name}"
        deadline = time.monotonic() + timeout_s
        wire = self._open_socket(f"{_pod_path(pod.namespace, pod.name)}/exec", query, what)
        try:
            _write_stdin(wire, stdin or b"", what)
            stderr, status = _read_streams(_read_frames(wire, deadline, silence_s), write, what)
        finally:
            # Without a time limit it would wait three seconds for an answer that may never come.
            with contextlib.suppress(package.websocket.WebSocketException, OSError):
                wire.close(timeout=0)
            # If the server closed it first, the socket is still open.
            wire.shutdown()  # type: ignore[no-untyped-call]
        return ExecEnd(_exit_code(status, what), stderr)

    def connect(self, pod: Pod, port: int) -> socket.socket:
        """Open a TCP connection to a port of a pod, on its loopback interface, through the API server.

        Raises:
            RefusedError: the API server refused.
            ClusterError: it could not be reached.
        """
        from warmstart.kube import package

        path, what = f"{_pod_path(pod.namespace, pod.name)}/portforward", f"reach port {port} of the pod {pod.name}"
        wire = self._open_socket(path, [("ports", str(port))], what)
        # From here on a thread of the package moves the bytes; it closes the web socket when we close ours.
        return socket.socket(fileno=package.PortForward(wire, [port]).socket(port).detach())

    def checkpoint(self, pod: Pod, container: str, timeout_s: float, kubelet_ca: Path | None = None) -> str:
        """Have the kubelet take a checkpoint of a container that continues; return the archive's path on the node.

        Wait for the answer even beyond the time limit: the archive is made in any case, and only the answer has its
        name (`CheckpointContainer` in k8s.io/cri-client/pkg/remote_runtime.go).

        The request goes to the API server's proxy; if that is not allowed, to the kubelet itself. Its certificate must
        be signed by `kubelet_ca`, or by the cluster's authority if None.

        Raises:
            RefusedError: the kubelet refused, or may not be asked.
            ClusterError: it could not be reached, or did not answer.
        """
        place = "/".join(_quote(word) for word in (pod.namespace, pod.name, container))
        query = {"timeout": str(round(timeout_s))}
        answer_s = max(timeout_s, RUNTIME_S) + ANSWER_S
        path = f"/api/v1/nodes/{_quote(pod.node)}/proxy/checkpoint/{place}"
        try:
            answer = self.request("POST", path, query=query, timeout_s=answer_s)
        except RefusedError as refusal:
            if refusal.status != HTTPStatus.FORBIDDEN:
                raise
            answer = self._ask_kubelet(pod, f"/checkpoint/{place}?{urlencode(query)}", answer_s, kubelet_ca, refusal)
        for item in answer.at("items").items():
            return item.name()
        raise ClusterError(f"{answer.source} has no items[0]")

    def _ask_kubelet(
        self, pod: Pod, path: str, timeout_s: float, kubelet_ca: Path | None, refusal: RefusedError
    ) -> Answer:
        """Ask the kubelet's own port. Its certificate is always verified, since it receives our credentials."""
        settings = self._configuration
        pool = urllib3.PoolManager(
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(kubelet_ca) if kubelet_ca else settings.ssl_ca_cert,
            cert_file=settings.cert_file,
            key_file=settings.key_file,
        )
        try:
            with pool:
                return ask(
                    pool, "the kubelet", "POST", f"https://{_kubelet_of(pod)}{path}", self._headers(), None, timeout_s
                )
        except RefusedError as other:
            if other.status != HTTPStatus.FORBIDDEN:
                raise
            raise RefusedError(
                403, refusal.brief, needs=f"{refusal.needs} or, at the kubelet itself, {other.needs}"
            ) from other
        except ClusterError as other:
            details = [f"nor could the kubelet itself be asked: {other.brief}", *other.details]
            raise RefusedError(HTTPStatus.FORBIDDEN, refusal.brief, needs=refusal.needs, details=details) from other

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for setting in self._configuration.auth_settings().values():
            if setting["value"]:
                headers[setting["key"]] = setting["value"]
        return headers

    def _open_socket(self, path: str, query: Sequence[tuple[str, str]], what: str) -> WebSocket:
        from warmstart.kube import package

        url = package.get_websocket_url(f"{self._configuration.host}{path}?{urlencode(query)}")
        try:
            wire: WebSocket = package.create_websocket(self._configuration, url, self._headers())
        except package.websocket.WebSocketBadStatusException as error:
            said = (error.resp_body or b"").decode(errors="replace")
            raise make_refusal(error.status_code, said, what) from error
        except (package.websocket.WebSocketException, OSError) as error:
            raise ClusterError(f"could not {what}: the API server cannot be reached: {error}") from error
        return wire


def connect_cluster(context: str | None = None, namespace: str | None = None) -> Cluster:
    """Connect to the cluster of the user's kubeconfig, or of this process.

    Args:
        context: context of the kubeconfig; the current one when None.
        namespace: default namespace; the context's own when None.

    Raises:
        HostError: there is no kubeconfig, no such context, it cannot be used, or the client is not installed.
    """
    from warmstart.kube import package

    settings = package.Configuration()
    # The package reads this variable once, when it is imported.
    places = os.environ.get("KUBECONFIG") or _KUBECONFIG
    try:
        if context is None and not _has_kubeconfig(places) and _IN_CLUSTER_NAMESPACE.exists():
            package.config.load_incluster_config(client_configuration=settings)
            return Cluster(settings, namespace or _IN_CLUSTER_NAMESPACE.read_text().strip())
        package.config.load_kube_config(config_file=places, context=context, client_configuration=settings)
        contexts, current = package.config.list_kube_config_contexts(config_file=places)
        chosen = next((entry for entry in contexts if entry["name"] == context), current)
        namespace = namespace or chosen["context"].get("namespace") or "default"
    except Exception as error:
        # The package does not check the file, and raises any kind of error.
        hint = "set KUBECONFIG, or name a context of it with --context"
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise HostError(f"no cluster: {said}", hint=hint) from error
    return Cluster(settings, namespace)


def _has_kubeconfig(places: str) -> bool:
    return any(Path(place).expanduser().exists() for place in places.split(":") if place)


def _pod_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{_quote(namespace)}/pods/{_quote(name)}"


def _kubelet_of(pod: Pod) -> str:
    """Return address and port of the kubelet of a pod's node."""
    try:
        address = ipaddress.ip_address(pod.host_ip)
    except ValueError as error:
        raise ClusterError(f"the node {pod.node} has no IP address: {pod.host_ip!r:.80}") from error
    return f"[{address}]:{KUBELET_PORT}" if address.version == 6 else f"{address}:{KUBELET_PORT}"


def _quote(name: str) -> str:
    """Quote a name as one part of a path."""
    if name in ("", ".", ".."):
        raise ClusterError(f"{name!r} is no name of an object")
    return quote(name, safe="")


def _write_stdin(wire: WebSocket, data: bytes, what: str) -> None:
    """Send a command's standard input."""
    from warmstart.kube import package

    wire.settimeout(CALL_S)
    try:
        for start in range(0, len(data), _PIECE_BYTES):
            wire.send_binary(bytes([_STDIN]) + data[start : start + _PIECE_BYTES])
    except (package.websocket.WebSocketException, OSError) as error:
        raise ClusterError(f"could not {what}: the connection broke: {error}") from error


def _read_streams(
    frames: Iterator[tuple[int, bytes]], write: Callable[[bytes], object], what: str
) -> tuple[str, bytes]:
    """Pass on a command's output; return its standard error and the server's report of its end."""
    from warmstart.kube import package

    stderr, status = b"", b""
    try:
        for channel, data in frames:
            if channel == _STDOUT:
                write(data)
            elif channel == _STDERR:
                stderr = (stderr + data)[-_STDERR_LIMIT_BYTES:]
            elif channel == _ERROR:
                status = (status + data)[:_STATUS_LIMIT_BYTES]
    except package.websocket.WebSocketTimeoutException as error:
        raise TimeoutError(what) from error
    except (package.websocket.WebSocketException, OSError) as error:
        if not status:
            raise ClusterError(f"could not {what}: the connection broke: {error}") from error
    return stderr.decode(errors="replace"), status


def _read_frames(wire: WebSocket, deadline: float, silence_s: float) -> Iterator[tuple[int, bytes]]:
    """Yield frames until the other end closes: channel numbers and data."""
    from warmstart.kube import package

    arrived, receive = 0, wire.frame_buffer.recv

    def receive_in_time(size: int) -> bytes:
        """Read from the socket, with limits for long messages and slow ones."""
        nonlocal arrived
        data = receive(size)
        arrived += len(data)
        if arrived > _MESSAGE_LIMIT_BYTES:
            raise package.websocket.WebSocketProtocolException(f"a message is longer than {_MESSAGE_LIMIT_BYTES} bytes")
        if time.monotonic() > deadline:
            raise package.websocket.WebSocketTimeoutException
        return data

    wire.frame_buffer.recv = receive_in_time
    while True:
        arrived = 0
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise package.websocket.WebSocketTimeoutException
        limit_s = min(left_s, silence_s)
        wire.settimeout(None if math.isinf(limit_s) else limit_s)
        opcode, frame = wire.recv_data_frame(True)
        if opcode == package.websocket.ABNF.OPCODE_CLOSE:
            return
        if opcode in (package.websocket.ABNF.OPCODE_BINARY, package.websocket.ABNF.OPCODE_TEXT) and frame.data:
            yield frame.data[0], frame.data[1:]


def _exit_code(status: bytes, what: str) -> int:
    """Parse the Status that reports the end of a command."""
    if not status:
        raise ClusterError(f"could not {what}: the connection ended before the command did")
    answer = parse_answer(status, f"the API server's word on the end of the command (to {what})")
    if answer.at("status").text() == "Success":
        return 0
    for cause in answer.at("details", "causes").items():
        if cause.at("reason").text("") == "ExitCode":
            code = cause.at("message")
            if not re.fullmatch("[0-9]{1,5}", code.text()):
                code.fail("an exit code")
            return int(code.text())
    raise ClusterError(f"could not {what}: {printable(answer.at('message').text('no reason given'))[:_MESSAGE_CHARS]}")
