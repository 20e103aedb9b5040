"""Run a cluster for experiments until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from support.cluster.cluster import open_cluster

from warmstart.cli.context import default_cache
from warmstart.core.errors import WarmstartError


def main() -> int:
    """Run a cluster, and print how to reach it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with open_cluster(Path(os.environ.get("WARMSTART_CACHE") or default_cache()), progress=_say) as cluster:
            print(f"export KUBECONFIG={cluster.kubeconfig} PATH={cluster.bin}:$PATH")
            print(f"# its registry: {cluster.registry} (plain HTTP); Ctrl-C ends it", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except WarmstartError as error:
        print(error, *error.details, error.hint, sep="\n", file=sys.stderr)
        return 1
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
