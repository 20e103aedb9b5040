"""Settings of gunicorn: three workers that share what was loaded before they were forked."""

import gc

bind = "0.0.0.0:8080"
worker_class = "asgi"
workers = 3
preload_app = True
# A connection that is kept alive is one that the checkpoint would have to close.
keepalive = 1


def pre_fork(_server: object, _worker: object) -> None:
    """Leave what is loaded out of the workers' collections, so that its pages stay shared."""
    gc.freeze()
