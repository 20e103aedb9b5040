"""The package `kubernetes` and its WebSocket library: the extra `warmstart[kubernetes]`.

Import this module inside of functions: the packages take half a second to load, and may not be installed.

Raises:
    HostError: a package is missing.
"""

from __future__ import annotations

from warmstart.core.errors import HostError

try:
    import websocket
    from kubernetes import config
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.stream.ws_client import PortForward, create_websocket, get_websocket_url
except ModuleNotFoundError as error:
    raise HostError(
        "this command needs the Kubernetes client, which is not installed",
        details=[str(error)],
        hint="pip install 'warmstart[kubernetes]'",
    ) from error

__all__ = [
    "ApiClient",
    "Configuration",
    "PortForward",
    "config",
    "create_websocket",
    "get_websocket_url",
    "websocket",
]
