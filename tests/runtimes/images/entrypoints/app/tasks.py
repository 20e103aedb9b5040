"""A worker of Celery that tells when it is ready."""

from pathlib import Path

from celery import Celery
from celery.signals import worker_ready

app = Celery("tasks", broker="memory://")


@worker_ready.connect
def tell(**_):
    """Tell that the worker waits for tasks."""
    Path("/tmp/ready").touch()
