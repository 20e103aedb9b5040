"""Commands import the libraries that they use, and not those of others."""

from __future__ import annotations

import subprocess
import sys

# In one interpreter: the second set may have what the first has.
PROGRAM = """
import sys
import warmstart.cli.static
print(*{"grpc", "requests", "sh", "warmstart.build"} & sys.modules.keys())
import warmstart.cli.build
print(*{"oras", "requests", "sigstore", "pydantic"} & sys.modules.keys())
"""


def test_what_is_not_needed_is_not_imported():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\n\n", "")
