"""Every module can be imported on systems other than Linux, for commands that need no container runtime."""

from __future__ import annotations

import subprocess
import sys

# Names that Python has on Linux only; macOS is simulated by taking them away.
PROGRAM = """
import importlib, os, pkgutil, select, signal, socket, sys, types

for module, names in (
    (os, "O_PATH O_TMPFILE O_NOATIME setns unshare pidfd_open memfd_create eventfd splice getxattr listxattr setxattr"),
    (os, "removexattr sched_getaffinity sched_setaffinity getrandom posix_fadvise setresuid setresgid pipe2"),
    (signal, "pidfd_send_signal SIGPWR SIGSTKFLT SIGRTMIN SIGRTMAX sigwaitinfo sigtimedwait"),
    (select, "epoll"),
    (socket, "AF_NETLINK AF_PACKET AF_VSOCK SO_PEERCRED"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
# urllib asks macOS for its proxies with this module.
sys.modules["_scproxy"] = types.SimpleNamespace(_get_proxy_settings=dict, _get_proxies=dict)
sys.platform = "darwin"

import warmstart

# The Kubernetes client is imported on first use, and asks the interpreter how it was built for macOS.
for module in pkgutil.walk_packages(warmstart.__path__, "warmstart."):
    if not module.name.endswith(("__main__", "kube.package")):
        importlib.import_module(module.name)
"""


def test_every_module_can_be_imported_without_linux():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
