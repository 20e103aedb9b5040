"""A CRI runtime that runs nothing: it keeps pods and containers in mind, and fails where it is told to."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as cri
from cri_api.v1 import api_pb2_grpc as services

from warmstart.engine.cri import CriEngine


class FakeRuntime(services.RuntimeServiceServicer, services.ImageServiceServicer):
    """Attributes:
    calls: the names of the methods that were called.
    requests: the last request of each.
    failures: by method, the code and the message that it fails with.
    before: by method, what is done before it answers.
    answers: by method, what it answers in the place of what it would.
    pods: those there are, by id.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.requests: dict[str, Any] = {}
        self.failures: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.before: dict[str, Callable[[], object]] = {}
        self.answers: dict[str, Any] = {}
        self.pods: dict[str, cri.PodSandbox] = {}
        self.containers: dict[str, str] = {}
        self.stopping = threading.Event()

    def _take(self, name: str, request: Any, context: grpc.ServicerContext, usual: Any) -> Any:
        self.calls.append(name)
        self.requests[name] = request
        self.before.get(name, lambda: None)()
        if name in self.failures:
            context.abort(*self.failures[name])
        return self.answers.get(name, usual)

    def Version(self, request, context):
        usual = cri.VersionResponse(runtime_name="fake", runtime_version="1.2")
        return self._take("Version", request, context, usual)

    def ImageFsInfo(self, request, context):
        place = cri.FilesystemIdentifier(mountpoint="/store/overlay-images")
        usual = cri.ImageFsInfoResponse(image_filesystems=[cri.FilesystemUsage(fs_id=place)])
        return self._take("ImageFsInfo", request, context, usual)

    def RemoveImage(self, request, context):
        return self._take("RemoveImage", request, context, cri.RemoveImageResponse())

    def RunPodSandbox(self, request, context):
        sandbox = f"pod-{len(self.pods)}"
        if "RunPodSandbox" not in self.failures:
            self.pods[sandbox] = cri.PodSandbox(id=sandbox, metadata=request.config.metadata)
        return self._take("RunPodSandbox", request, context, cri.RunPodSandboxResponse(pod_sandbox_id=sandbox))

    def PodSandboxStatus(self, request, context):
        network = cri.PodSandboxNetworkStatus(ip="10.88.0.2")
        usual = cri.PodSandboxStatusResponse(status=cri.PodSandboxStatus(network=network))
        return self._take("PodSandboxStatus", request, context, usual)

    def ListPodSandbox(self, request, context):
        return self._take("ListPodSandbox", request, context, cri.ListPodSandboxResponse(items=self.pods.values()))

    def CreateContainer(self, request, context):
        return self._take("CreateContainer", request, context, cri.CreateContainerResponse(container_id="container"))

    def StartContainer(self, request, context):
        return self._take("StartContainer", request, context, cri.StartContainerResponse())

    def ListContainers(self, request, context):
        usual = cri.ListContainersResponse(containers=[cri.Container(id="container")])
        return self._take("ListContainers", request, context, usual)

    def StopContainer(self, request, context):
        return self._take("StopContainer", request, context, cri.StopContainerResponse())

    def StopPodSandbox(self, request, context):
        return self._take("StopPodSandbox", request, context, cri.StopPodSandboxResponse())

    def RemovePodSandbox(self, request, context):
        answer = self._take("RemovePodSandbox", request, context, cri.RemovePodSandboxResponse())
        del self.pods[request.pod_sandbox_id]
        return answer

    def ExecSync(self, request, context):
        return self._take("ExecSync", request, context, cri.ExecSyncResponse())

    def ContainerStatus(self, request, context):
        return self._take("ContainerStatus", request, context, cri.ContainerStatusResponse())

    def CheckpointContainer(self, request, context):
        return self._take("CheckpointContainer", request, context, cri.CheckpointContainerResponse())


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    """A fake runtime, whose socket is its attribute `endpoint`."""
    fake = FakeRuntime()
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="cri-") as directory:
        server = grpc.server(ThreadPoolExecutor(4))
        services.add_RuntimeServiceServicer_to_server(fake, server)
        services.add_ImageServiceServicer_to_server(fake, server)
        fake.endpoint = f"unix://{directory}/fake.sock"
        server.add_insecure_port(fake.endpoint)
        server.start()
        yield fake
        fake.stopping.set()
        server.stop(None).wait()


@pytest.fixture
def engine(runtime, tmp_path) -> Iterator[CriEngine]:
    """An engine that is connected to the fake runtime."""
    with CriEngine(runtime.endpoint, proc=Path("/proc"), network=None, scratch=tmp_path) as connected:
        yield connected
