"""The interface of AWS's package snapshot-restore-py, served as `snapshot_restore_py` if it is not installed."""

__all__ = ["register_after_restore", "register_before_snapshot"]

_before_snapshot = []
_after_restore = []


def register_before_snapshot(func, *args, **kwargs):
    """Call `func` before the checkpoint, the function registered last first. Returns it, so it is a decorator too."""
    _before_snapshot.append((func, args, kwargs))
    return func


def register_after_restore(func, *args, **kwargs):
    """Call `func` after a restore, the function registered first first. Returns it, so it is a decorator too."""
    _after_restore.append((func, args, kwargs))
    return func


def get_before_snapshot():
    """Return the list of functions to call before the checkpoint, each with its arguments."""
    return _before_snapshot


def get_after_restore():
    """Return the list of functions to call after a restore, each with its arguments."""
    return _after_restore
