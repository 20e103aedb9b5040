"""TCP ports that a container names elsewhere than in its ports: in variables, in its command, and in annotations."""

from __future__ import annotations

import re
from collections.abc import Iterator

from warmstart.core.yaml_document import shown
from warmstart.recipe.init.inputs import Inputs
from warmstart.recipe.init.variables import list_variables
from warmstart.recipe.init.waiting import words_of
from warmstart.recipe.pods import PodContainer, mapping_at

# Variables by which servers are told their own port; those of other services have the service in their names.
_PORT = re.compile(
    r"(?:(?:SERVER|HTTP|APP|APPLICATION|LISTEN|LISTENING|API|WEB|BIND|UVICORN|GUNICORN|NODE|QUARKUS_HTTP"
    r"|MICRONAUT_SERVER|FLASK_RUN|SERVICE|CONTAINER|NITRO|RAILS|PUMA|ASPNETCORE_HTTP)_)?PORTS?"
)
# Variables that hold the addresses to listen on (learn.microsoft.com, "Configure endpoints for Kestrel").
_URLS = re.compile(r"ASPNETCORE_URLS|DOTNET_URLS|URLS|BIND|GUNICORN_BIND")
_IN_URL = re.compile(r"(?:^|[\s;,])(?:https?://)?[^\s;,/:]*:(?P<port>[0-9]{2,5})(?=$|[\s;,/])")
_OPTIONS = (
    re.compile(
        r"(?<!\S)-{1,2}(?:D?server\.)?(?:http[-_.]?|listen[-_.]?|server[-_.]?)?port[=\s]+(?P<port>[0-9]{2,5})\b"
    ),
    re.compile(r"(?<!\S)(?:-b|--bind|--listen|--host|--urls)[=\s]+(?:https?://)?[\w.*+\[\]:]*?:(?P<port>[0-9]{2,5})\b"),
    re.compile(r"\brunserver\s+(?:[\w.]+:)?(?P<port>[0-9]{2,5})\b"),
    re.compile(
        r"\b(?:uvicorn|gunicorn|flask|rails|puma|next|vite|serve|http\.server)\b[^;|&]{0,200}?\s-p\s+(?P<port>[0-9]{2,5})\b"
    ),
    re.compile(r"\bhttp\.server\s+(?P<port>[0-9]{2,5})\b"),
)
_ANNOTATIONS = ("prometheus.io/port", "dapr.io/app-port")


def find_named_ports(chosen: PodContainer, inputs: Inputs) -> Iterator[tuple[str, int]]:
    """Yield the ports of a container, each with its place for people, in the order of trust."""
    for where, text in _find(chosen, inputs):
        if 0 < int(text) < 65536:
            yield where, int(text)


def _find(chosen: PodContainer, inputs: Inputs) -> Iterator[tuple[str, str]]:
    variables = dict(list_variables(chosen.block, inputs))
    for name, value in variables.items():
        if _PORT.fullmatch(name.upper().replace(".", "_")) and re.fullmatch(r"[0-9]{2,5}", value.strip()):
            yield f"the variable {shown(name)}", value.strip()
        elif _URLS.fullmatch(name) and (match := _IN_URL.search(value)):
            yield f"the variable {shown(name)}", match["port"]
    command = " ".join(words_of(chosen.block))
    for pattern in _OPTIONS:
        if match := pattern.search(command):
            yield "the command", match["port"]
    own = mapping_at(chosen.manifest, *chosen.pod_path[:-1], "metadata", "annotations")
    for name in _ANNOTATIONS:
        if re.fullmatch(r"[0-9]{2,5}", str(own.get(name, ""))):
            yield f"the annotation {name}", str(own[name])
