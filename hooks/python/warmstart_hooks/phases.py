"""The two phases: the program's callbacks, its pools of connections, and the state that is renewed without its help."""

import _thread
import sys

from . import pools, renew


def run(phase, initial_environ, limit_s):
    """Do a phase, and return an error, or "" if there was none.

    Plain functions run in a thread of their own. Coroutines run in the event loop of the program: that of the main
    thread, else that of any thread, else a new one. All callbacks are called, even if one fails.

    Args:
        phase: "beforeCheckpoint" or "afterRestore".
        initial_environ: the environment at the start of the program.
        limit_s: how long all callbacks together may take.
    """
    run_ = _Run(_callbacks(phase))
    if phase == "afterRestore":
        renew.renew(initial_environ)
    _thread.start_new_thread(run_.call_all, ())
    if not run_.done.acquire(timeout=limit_s):
        run_.add_error(TimeoutError(f"not done within {limit_s:g} s"), run_.current)
    if phase == "beforeCheckpoint":
        renew.prepare()
    return run_.error()


class _Run:
    """Callbacks that are called one after the other, and their errors."""

    def __init__(self, callbacks):
        self.callbacks = callbacks
        self.current = None
        self.errors = []
        self.done = _thread.allocate_lock()
        self.done.acquire()

    def call_all(self):
        try:
            for callback, args, kwargs in self.callbacks:
                self.current = callback
                self._call(callback, args, kwargs)
        finally:
            self.done.release()

    def _call(self, callback, args, kwargs):
        try:
            result = callback(*args, **kwargs)
            if hasattr(result, "__await__"):
                _await(result)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            # A pool of a future release may be unlike those that are known. Its connections stay open then.
            if getattr(callback, "__module__", None) != pools.__name__:
                self.add_error(error, callback)

    def add_error(self, error, callback):
        self.errors.append((error, callback))

    def error(self):
        """Return the first error and the names of all callbacks that failed."""
        if not self.errors:
            return ""
        kind, message = type(self.errors[0][0]), str(self.errors[0][0])
        name = kind.__qualname__ if kind.__module__ == "builtins" else kind.__module__ + "." + kind.__qualname__
        callbacks = ", ".join(_name(callback) for _, callback in self.errors)
        return f"{name}: {message} (callbacks: {callbacks})"


def _callbacks(phase):
    """Yield the program's callbacks, in the order in which AWS's package says that they are called, then our own."""
    registry = sys.modules.get("snapshot_restore_py")
    if phase == "beforeCheckpoint":
        yield from list(registry.get_before_snapshot())[::-1] if registry else ()
        yield from pools.closers()
    else:
        yield from list(registry.get_after_restore()) if registry else ()
        yield from pools.openers()


def _name(callback):
    module, name = getattr(callback, "__module__", None), getattr(callback, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(callback)


def _await(awaitable):
    import asyncio

    async def wait():
        return await awaitable

    loop = _find_event_loop()
    if loop is None:
        asyncio.run(wait())
    else:
        asyncio.run_coroutine_threadsafe(wait(), loop).result()


def _find_event_loop():
    """Return the event loop that runs in the main thread, or in another; None if none runs."""
    import threading

    frames = sys._current_frames()
    for thread in sorted(frames, key=lambda thread: thread != threading.main_thread().ident):
        frame = frames[thread]
        while frame is not None:
            for loop in _event_loops_in(frame.f_locals):
                return loop
            frame = frame.f_back
    return None


def _event_loops_in(variables):
    """Yield the running loops that a function's variables hold. One of C, like uvloop's, has no frame itself."""
    from asyncio import AbstractEventLoop

    owner = variables.get("self")
    candidates = [owner, getattr(owner, "_loop", None), getattr(owner, "loop", None), *variables.values()]
    return (each for each in candidates if isinstance(each, AbstractEventLoop) and each.is_running())
