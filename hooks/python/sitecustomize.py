"""Python runs this at its start, found through PYTHONPATH: offer runtime hooks, then the sitecustomize it hides."""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


class _SnapshotRestore:
    """Finds `snapshot_restore_py` if it is not installed: it comes last in sys.meta_path."""

    @staticmethod
    def find_spec(name, _path=None, _target=None):
        if name != "snapshot_restore_py":
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(name, os.path.join(_HERE, "warmstart_hooks", "snapshot_restore.py"))


def _start_agent():
    directory = os.environ.get("WARMSTART_HOOKS", "")
    sys.meta_path.append(_SnapshotRestore)
    # Only the container of a build has it.
    if directory and os.path.exists(os.path.join(directory, "checkpoint")):
        from warmstart_hooks import agent

        agent.start(directory)


def _run_hidden():
    """Run the sitecustomize that Python would have found without this one."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _HERE]
    this = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = this


try:
    _start_agent()
finally:
    _run_hidden()
