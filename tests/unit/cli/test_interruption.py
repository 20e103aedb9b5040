"""A signal ends the program in order, also if it comes where what its handler raises goes nowhere."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from warmstart.cli.interruption import TERMINATED

PROGRAM = """
import signal, sys, time, weakref
from warmstart.cli.interruption import end_in_order

class Interrupted:
    pass

def interrupt(_):
    signal.raise_signal(int(sys.argv[1]))
    sum(range(100))  # the handler runs between two instructions

end_in_order()
try:
    one = Interrupted()
    reference = weakref.ref(one, interrupt)
    del one
    print("goes on", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
finally:
    print("cleaned up", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "output", "status"),
    [
        (signal.SIGTERM, ["goes on", "cleaned up"], TERMINATED),
        (signal.SIGINT, ["goes on", "interrupted", "cleaned up"], 0),
    ],
)
def test_a_signal_during_a_callback_of_a_weak_reference_is_not_missed(number, output, status):
    command = [sys.executable, "-c", PROGRAM, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout.splitlines(), done.returncode, done.stderr) == (output, status, "")


def test_other_exceptions_of_destructors_are_reported():
    program = """
from warmstart.cli.interruption import end_in_order
class Fails:
    def __del__(self):
        raise ValueError("reported")
end_in_order()
Fails()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert "ValueError: reported" in done.stderr
    assert done.returncode == 0
