"""Commands without the extra `kubernetes`: those that reach no cluster work, and the others name it."""

from __future__ import annotations

import json
import subprocess
import sys

# A program that runs the command line as if neither package were installed.
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("kubernetes", "websocket"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
RUN = """
from warmstart.__main__ import main
main()
"""
RUN_EACH = """
import json
from warmstart.__main__ import main
for sys.argv[1:] in json.loads(sys.argv[1]):
    try:
        main()
    except SystemExit as ended:
        print(ended.code)
"""
# In one interpreter, since starting one takes longer than the rest.
HELP = """
from warmstart.cli.main import cli
for command in sys.argv[1:]:
    cli.main([command, "--help"], standalone_mode=False)
"""


def run_without(*arguments: str, program: str = RUN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_command_that_reaches_a_cluster_names_the_missing_extra() -> None:
    commands = [
        ("save", "app", "--image", "registry.example.com/app:saved"),
        ("checkpoint", "app", "--output", "app.tar"),
        ("drain-save", "node", "-l", "app=a", "--image", "registry.example.com/app", "--deadline", "60"),
    ]
    ended = run_without(json.dumps(commands), program=RUN_EACH)

    assert (ended.returncode, ended.stdout) == (0, "4\n" * len(commands)), ended.stderr
    assert ended.stderr.count("this command needs the Kubernetes client, which is not installed") == len(commands)
    assert ended.stderr.count("pip install 'warmstart[kubernetes]'") == len(commands)
    assert "Traceback" not in ended.stderr


def test_help_needs_no_client() -> None:
    commands = ("save", "migrate", "build", "deploy", "inspect", "doctor", "rbac")
    ended = run_without(*commands, program=HELP)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("Usage: ") == len(commands)


def test_roles_are_printed_without_the_client() -> None:
    ended = run_without("rbac", "checkpoint")

    assert ended.returncode == 0, ended.stderr
    assert "kind: ClusterRole" in ended.stdout
