"""The agent: a thread that waits for the checkpoint, and after it for the restore. docs/hooks.md has the protocol.

It waits in open(2) of a FIFO: without processor time, without a descriptor. Each forked process gets an agent of its
own. Its threads are not those of `threading`, so nothing counts them or waits for them when the program ends.
"""

import _signal
import _thread
import json
import os
import sys
import time

from . import phases

_EXIT_FAILED = 70
_MAX_ERROR_CHARACTERS = 600  # a line of 4096 bytes is written at once, with every character escaped

_directory = ""
_initial_environ = {}


def start(directory):
    """Start the agent of this process and of each process that it forks.

    Args:
        directory: the directory of the FIFOs.
    """
    global _directory
    _directory = directory
    _initial_environ.update(os.environ)
    os.register_at_fork(after_in_child=_start)
    _start()


def _start():
    # Until the checkpoint, the thread does nothing that takes a lock: a process may be forked at any moment, and
    # would never see the lock released.
    _reply("registered", runtime="python " + sys.version.split()[0])
    _thread.start_new_thread(_await_checkpoint, ())


def _await_checkpoint():
    if not _wait_for("checkpoint"):
        return
    answer = _answer("checkpoint", "beforeCheckpoint")
    # An image that restores itself makes all processes before all threads. So the thread that is checkpointed has to
    # be younger than every process, and this one, which may be older, has to be gone before the build is answered.
    _thread.start_new_thread(_await_restore, (_thread.get_native_id(), answer))


def _await_restore(previous_thread, answer):
    while os.path.exists(f"/proc/self/task/{previous_thread}"):
        time.sleep(0.0005)
    _reply(**answer)
    given_up = _wait_for("restored")
    answer = _answer("restored", "afterRestore")
    _reply(**answer)
    if given_up:
        _await_checkpoint()
    elif answer["event"] == "failed":
        _end_process(answer["error"])


def _answer(event, phase):
    """Do what belongs to a phase, and return the line that answers the build."""
    started = time.monotonic()
    error = phases.run(phase, _initial_environ, float(os.environ.get("WARMSTART_HOOKS_LIMIT") or 30))
    if error:
        return {"event": "failed", "phase": phase, "error": error[:_MAX_ERROR_CHARACTERS]}
    return {"event": event, "seconds": round(time.monotonic() - started, 4)}


def _wait_for(name):
    """Wait until the build opens a FIFO, and return whether it did: without the FIFO, this is not the build."""
    # No signal may be delivered to this thread: the program may wait for it in another.
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        os.close(os.open(os.path.join(_directory, name), os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return False
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    return True


def _reply(event, **values):
    line = json.dumps({"pid": os.getpid(), "event": event, **values}) + "\n"
    try:
        reply = os.open(os.path.join(_directory, "reply"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # nobody wants to know
        return
    try:
        os.write(reply, line.encode())
    except BlockingIOError:  # nobody reads
        pass
    finally:
        os.close(reply)


def _end_process(error):
    os.write(2, f"warmstart: after-restore hook failed: {error}\n".encode(errors="replace"))
    os._exit(_EXIT_FAILED)
