"""Readers of strangers' input, each as a function of bytes: it may raise WarmstartError and nothing else."""

from __future__ import annotations

import functools
import gzip
import io
import json
import re
import socket
import tarfile
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import zstandard
from support.checkpoint_archive import GOOD, entry, tar_of
from support.checkpoint_image import ANNOTATIONS, checkpoint, make_layout, make_warm_image, real_dump
from support.memory_file import map_to_file
from support.planted import make_jwt, make_pem, make_rsa_key, make_token
from support.pod_recipe import OBJECTS, POD_RECIPE
from support.signing_keys import COSIGN_PUB

from fuzz.server import Reply, answering, serve
from tests.support.registry_access import http
from warmstart.build.result import parse_report
from warmstart.core.errors import WarmstartError
from warmstart.core.reference import Reference
from warmstart.core.untrusted_json import JsonError
from warmstart.dump.archive.archive import extract_archive
from warmstart.dump.archive.outline import extract_outline
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import walk_layer
from warmstart.dump.criu.contents import read_inventory, read_mappings, read_processes, read_sockets
from warmstart.dump.criu.fingerprint import find_identity
from warmstart.dump.edit.cgroups import move_to_cgroup_v2
from warmstart.dump.edit.directories import clear_directory_modes
from warmstart.dump.edit.listeners import find_listeners
from warmstart.dump.edit.sockets import clear_owners, close_sockets
from warmstart.dump.edit.touched_memory import choose_touched, map_touched
from warmstart.dump.state.compare import describe, find_differences
from warmstart.dump.state.document import parse_state
from warmstart.dump.state.model import KernelState
from warmstart.image.layout import Image, read_image, write_archive
from warmstart.image.manifest import (
    INDEX_TYPES,
    OCI_MANIFEST,
    Config,
    Descriptor,
    Manifest,
    Platform,
    parse_config,
    parse_index,
    parse_manifest,
)
from warmstart.image.mount_points import Links, check_image
from warmstart.image.open import OpenedImage
from warmstart.image.packages import read_packages
from warmstart.image.registry.client import read_manifest, read_reports
from warmstart.image.secrets.record import parse_record
from warmstart.image.secrets.scan import Scanner, Search
from warmstart.image.selfrestore.claim import claim_state
from warmstart.image.selfrestore.inspect import unpack_launched
from warmstart.image.selfrestore.pack import read_manifest as read_launcher_manifest
from warmstart.image.selfrestore.unpack import unpack
from warmstart.image.signatures.identity import CertificateIdentity
from warmstart.image.signatures.keys import PublicKey, read_public_key
from warmstart.image.signatures.statement import (
    PAYLOAD_TYPE,
    Predicate,
    is_simple_signing_of,
    make_simple_signing,
    make_statement,
    parse_envelope,
    parse_statement,
)
from warmstart.inspect.inspection import inspect_target
from warmstart.inspect.secrets import search_target
from warmstart.kube.client import Cluster
from warmstart.kube.patch import patch_manifest
from warmstart.kube.settings import BuildInfo
from warmstart.kube.trial import find_pools
from warmstart.recipe.init.manifest import init_from_manifest
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.model import Restorer, Secret
from warmstart.recipe.secret_names import secret_reason

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
SEEDS: dict[str, Callable[[], list[bytes]]] = {}

BUNDLES = Path(__file__).parents[1] / "unit/image/signatures/samples"
RECIPES = Path(__file__).parents[2] / "recipes"


def target(seeds: Callable[[], list[bytes]]) -> Callable[[Target], Target]:
    """Register a target by its name, with inputs to begin with."""

    def register(function: Target) -> Target:
        name = function.__name__

        @functools.wraps(function)
        def guarded(data: bytes) -> None:
            with suppress(WarmstartError):
                function(data)

        TARGETS[name], SEEDS[name] = guarded, seeds
        return guarded

    return register


@contextmanager
def scratch() -> Iterator[Path]:
    """A new directory, in memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="warmstart-fuzz-") as directory:
        yield Path(directory)


def attempt(*steps: Callable[[], object]) -> None:
    """Take each step, whatever the one before it refused."""
    for step in steps:
        with suppress(WarmstartError):
            step()


def mend(data: bytes) -> bytes:
    """A tar with the checksums of its headers right again: a mutation seldom finds them."""
    mended = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            mended[at + 148 : at + 156] = b" " * 8
            mended[at + 148 : at + 156] = b"%06o\0 " % sum(mended[at : at + 512])
    return bytes(mended)


@target(lambda: [GOOD])
def archive(data: bytes) -> None:
    with scratch() as place:
        (place / "a.tar").write_bytes(mend(data))
        attempt(
            lambda: extract_archive(place / "a.tar", place / "whole"),
            lambda: extract_outline(place / "a.tar", place / "outline"),
        )


def make_packed() -> bytes:
    names = ["state/manifest", "state/started", "state/checkpoint/core-100.img", "kept/etc/passwd"]
    state = [entry(name, type=tarfile.DIRTYPE) for name in ("state/checkpoint", "changes/etc")]
    file = entry("changes/etc/a", b"x", pax_headers={"SCHILY.xattr.user.a": "b"})
    link = entry("changes/b", type=tarfile.LNKTYPE, linkname="changes/etc/a")
    return tar_of(*state, *map(entry, names), file, link)


@target(lambda: [make_packed()])
def packed(data: bytes) -> None:
    """The stream of `launcher pack`."""
    with scratch() as place:
        (place / "stream.tar").write_bytes(mend(data))
        attempt(
            lambda: unpack(place / "stream.tar", place / "state", place / "changes.tar", place / "base", ["tmp"]),
            lambda: claim_state(place / "state", place / "claimed"),
        )


def dump_seeds() -> list[bytes]:
    names = sorted(real_dump())
    return [bytes([number]) + real_dump()[name] for number, name in enumerate(names) if name.endswith(".img")]


@target(dump_seeds)
def entries(data: bytes) -> None:
    """The first byte says which file of a real dump has the rest as its content."""
    files = dict(real_dump())
    names = sorted(files)
    files[names[data[0] % len(names)] if data else names[0]] = data[1:]
    with scratch() as place:
        dump = place / "dump"
        dump.mkdir()
        for name, content in files.items():
            (dump / name).write_bytes(content)
        attempt(
            lambda: read_inventory(dump),
            lambda: [read_mappings(dump, process.pid) for process in read_processes(dump)],
            lambda: read_sockets(dump),
            lambda: find_identity(dump),
            lambda: find_listeners(dump),
            lambda: move_to_cgroup_v2(dump),
            lambda: close_sockets(dump, established=True),
            lambda: map_to_file(dump, place / "memory", path_in_image="/memory"),
            lambda: map_touched(dump, "/memory", choose_touched([(0, 1)], 1 << 20), "/memory-touched"),
            lambda: clear_directory_modes(dump),
            lambda: clear_owners(dump),
            lambda: read_processes(dump),
        )


def layer_seeds() -> list[bytes]:
    link = entry("var/run", type=tarfile.SYMTYPE, linkname="/run")
    launched = [entry(f".warmstart/{name}", b"x" * 100) for name in ("manifest", "checkpoint/inventory.img")]
    seeds = [tar_of(link, *launched, entry("etc/.wh.hosts"), entry("etc/.wh..wh..opq"))]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers={"comment": "x"}) as tar:
            tar.addfile(entry("a" * 120 + "/" + "b" * 90, b"")[0])
        seeds.append(buffer.getvalue())
    return [*seeds, *(zstandard.ZstdCompressor().compress(seed) for seed in seeds)]


class Blob:
    """A blob whose digest nobody minds."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


@target(layer_seeds)
def layer(data: bytes) -> None:
    data = mend(data)
    blob = Descriptor("application/vnd.oci.image.layer.v1.tar", "sha256:" + "0" * 64, len(data))
    image = Image(Manifest(blob, blob, (blob,)), Config(Platform("linux", "amd64")))

    @contextmanager
    def open_content(_: Descriptor) -> Iterator[Blob]:
        yield Blob(data)

    opened = OpenedImage(image, open_content)  # type: ignore[arg-type]
    with scratch() as place:
        links = Links()
        with opened.open_layer(blob) as tar:
            links.add_layer(walk_layer(StreamedTar(tar, "layer")))
        check_image(links, "image")
        with opened.open_layer(blob) as tar:
            unpack_launched(tar, place, "layer")


LAUNCHED = b"""\
warmstart 1
argument java
argument -Dgreeting=two\\x0awords
user 1000
group 1001
groups 5 2000
pid 100
stdout 4711
stderr 4712
file 12 core-100.img
listen tcp46 8080 1 18
cpu avx2
monotonic 12000000000
boottime 12000000001
end
"""


@target(lambda: [LAUNCHED])
def launched(data: bytes) -> None:
    """The launcher's manifest, as it is read from a layer."""
    with scratch() as place:
        (place / "manifest").write_bytes(data)
        read_launcher_manifest(place)


def layout_seeds() -> list[bytes]:
    with scratch() as place:
        warm = make_warm_image(place)
        write_archive(warm, read_image(warm), place / "a.tar", name="localhost/app:warm")
        return [(place / "a.tar").read_bytes()]


@target(layout_seeds)
def layout(data: bytes) -> None:
    """An oci-archive, and the same as a directory."""
    with scratch() as place:
        (place / "a.tar").write_bytes(data)
        inspect_target(str(place / "a.tar"))


def document_seeds() -> list[bytes]:
    blob = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{'0' * 64}", "size": 1}
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["A=b"], "Cmd": ["a"], "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}},
        "history": [{"created_by": "a", "empty_layer": True}],
        "rootfs": {"diff_ids": [blob["digest"]]},
    }
    manifest = {"schemaVersion": 2, "config": blob, "layers": [blob], "annotations": ANNOTATIONS, "subject": blob}
    index = {"schemaVersion": 2, "manifests": [{**blob, "platform": {"os": "linux", "architecture": "amd64"}}]}
    report = {"image": "a", "restores": [{"firstSuccessSeconds": 1.0}]}
    facts = {"is": "a", "CapEff": "1", "Seccomp_filters": "1", "SigCgt": "1", "locks": "a", "watched descriptors": "1"}
    subjects = ["thread 1", "process 1", "descriptor 1 1", "network"]
    state = {"version": 1, "groups": [{"of": subjects, "facts": facts}], "leftOut": 0}
    kinds = {0: config, 1: manifest, 2: index, 3: report, 5: state}
    return [bytes([kind]) + json.dumps(one).encode() for kind, one in kinds.items()]


def describe_state(text: bytes) -> None:
    """Compare the state in an image with one that has lost all of it, as `verify` does."""
    state = parse_state(text.decode(errors="replace"))
    after = KernelState({subject: dict.fromkeys(facts, "") for subject, facts in state.subjects.items()})
    describe(find_differences(state, after, exact=True))
    state.agree(after)


@target(document_seeds)
def documents(data: bytes) -> None:
    """The first byte says which document of an image the rest is."""
    text = data[1:]
    blob = Descriptor(OCI_MANIFEST, "sha256:" + sha256(text).hexdigest(), len(text))
    readers: tuple[Callable[[], object], ...] = (
        lambda: parse_config(text),
        lambda: parse_manifest(text, blob),
        lambda: [parse_index(text, kind) for kind in INDEX_TYPES],
        lambda: parse_report(text),
        lambda: parse_record(text.decode(errors="replace")),
        lambda: describe_state(text),
    )
    readers[(data[0] if data else 0) % len(readers)]()


@functools.cache
def read_key() -> PublicKey:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(COSIGN_PUB)
        file.flush()
        return read_public_key(Path(file.name))


ABOUT = f"sha256:{'0' * 64}"


def statement_seeds() -> list[bytes]:
    statement = make_statement("a", ABOUT, Predicate("https://example.com/v1", {"a": 1}))
    payload = {"payload": b64encode(statement).decode(), "payloadType": PAYLOAD_TYPE}
    envelope = {**payload, "signatures": [{"keyid": "a", "sig": b64encode(bytes(64)).decode()}]}
    bundle = {"dsseEnvelope": envelope, "verificationMaterial": {"publicKey": {"hint": "a"}}}
    return [json.dumps(one).encode() for one in (envelope, bundle)] + [make_simple_signing("a", ABOUT)]


@target(statement_seeds)
def statement(data: bytes) -> None:
    """A signature or a statement that somebody attached to an image."""
    is_simple_signing_of(data, ABOUT)
    with suppress(JsonError):
        envelope = parse_envelope(data)
        key = read_key()
        key.is_named_by(envelope)
        assert not key.has_signed(envelope)
        parse_statement(envelope, ABOUT)


def bundle_seeds() -> list[bytes]:
    return [file.read_bytes() for file in sorted(BUNDLES.glob("*.sigstore.json"))]


@target(bundle_seeds)
def bundle(data: bytes) -> None:
    """A bundle of a signature without a key; only what was signed is taken for signed."""
    with suppress(JsonError):
        envelope = parse_envelope(data)
        identity = CertificateIdentity(re.compile("team"), re.compile("127"), BUNDLES / "trusted-root.json")
        identity.is_named_by(envelope)
        if identity.has_signed(envelope):
            assert envelope.payload in [parse_envelope(seed).payload for seed in bundle_seeds()]


def package_seeds() -> list[bytes]:
    status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2)\nVersion: 2.36-9\n"
    files = {"var/lib/dpkg/status": f"{status}\n{status}", "var/lib/dpkg/status.d/a": status, "etc/os-release": "ID=a"}
    return [tar_of(*(entry(name, text.encode()) for name, text in files.items()))]


@target(package_seeds)
def packages(data: bytes) -> None:
    """The layer of a base image, with dpkg's database."""
    with scratch() as place:
        read_packages(make_layout(place / "image", data, annotations={}))


@target(lambda: [path.read_bytes() for path in sorted(RECIPES.glob("*/recipe.yaml"))] + [POD_RECIPE])
def recipe(data: bytes) -> None:
    with scratch() as place:
        (place / "recipe.yaml").write_bytes(data)
        loaded = load_recipe(place / "recipe.yaml")
        assert parse_recipe(loaded.document, "again").document == loaded.document


@target(lambda: [OBJECTS])
def objects(data: bytes) -> None:
    """A file of objects and a service's manifest, of a recipe that refers to much in it."""
    with scratch() as place:
        (place / "recipe.yaml").write_bytes(POD_RECIPE)
        (place / "k8s.yaml").write_bytes(data)
        loaded = load_recipe(place / "recipe.yaml")
        assert parse_recipe(loaded.document, "again").document == loaded.document


@target(lambda: [b"DB_PASSWORD\0hunter2", b"URL\0postgres://a:b@c/d?password=$(E)", b"A\0-----BEGIN PRIVATE KEY-----"])
def secret_names(data: bytes) -> None:
    name, _, value = data.decode(errors="replace").partition("\0")
    secret_reason(name, value)


def memory_seeds() -> list[bytes]:
    texts = ["x://u:hunter22@h", "host=a password=hunter22", "Authorization: Basic czZCaGRSa3F0MzpnWDFmQmF0"]
    texts += [make_token(), make_jwt(), make_pem(make_rsa_key())]
    wide = [text.encode(encoding) for text in texts for encoding in ("utf-8", "utf-16-le", "utf-32-be")]
    ec = b"\x02\x01\x01\x04\x20" + bytes(range(32)) + b"\xa0\x0a\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
    return [*wide, make_rsa_key(), ec]


@target(memory_seeds)
def memory(data: bytes) -> None:
    """Memory and files of a container, for the search for secrets: in one piece or in several, the same is found."""
    counts = []
    for size in (len(data) + 1, 7):
        search = Search(Scanner([Secret("a", b"hunter22")]))
        search.enter("memory")
        for at in range(0, len(data), size):
            search.feed(data[at : at + size])
        search.finish()
        counts.append(sorted((one.kind, one.count, one.excerpt) for one in search.found.values()))
    assert counts[0] == counts[1]


def checkpoint_seeds() -> list[bytes]:
    return [tar_of(*checkpoint()), gzip.compress(tar_of(*checkpoint()))]


@target(checkpoint_seeds)
def searched(data: bytes) -> None:
    """An archive of anybody, searched for secrets."""
    with scratch() as place:
        (place / "a.tar").write_bytes(mend(data))
        attempt(lambda: search_target(str(place / "a.tar"), [Secret("a", b"hunter22")]))


MANIFEST = b"""\
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  template:
    spec:
      automountServiceAccountToken: true  # a comment
      containers:
        - name: app
          image: registry.example.com/app:1
          env: &env [{name: A, value: !!str 1}]
          securityContext: {runAsUser: 0x10, privileged: no}
          resources: {limits: {memory: 1e3Mi}}
---
{"kind": "Pod", "metadata": {"name": "b"}, "spec": {"containers": [{"name": "b", "image": "b"}]}}
"""
BUILD = BuildInfo(
    "app",
    "registry.example.com/app:warm",
    {
        "image": "registry.example.com/app:1",
        "env": [
            {"name": "A", "value": "2"},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
        ],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {"supplementalGroups": [1, 2], "capabilities": {"drop": ["ALL"]}},
        "resources": {"limits": {"memory": "1Gi"}},
        "readinessProbe": {"tcpSocket": {"port": 80}},
    },
    (str(Restorer.RUNTIME), str(Restorer.SELF)),
    mounts=("/tmp",),
    pod={"volumes": [{"name": "tmp", "emptyDir": {}}], "securityContext": {"fsGroup": 1}},
    stand_ins={"objects": [{"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "v"}}]},
)


@target(lambda: [MANIFEST])
def manifests(data: bytes) -> None:
    with scratch() as place:
        (place / "manifest.yaml").write_bytes(data)
        attempt(
            lambda: init_from_manifest(place / "manifest.yaml"),
            lambda: init_from_manifest(place / "manifest.yaml", container="app"),
            lambda: patch_manifest(data, "manifest.yaml", None, BUILD),
            lambda: patch_manifest(data, "manifest.yaml", "app", BUILD, ["*"]),
        )


POD = {
    "metadata": {"name": "a", "namespace": "b", "uid": "c", "labels": {}, "ownerReferences": [{"controller": True}]},
    "spec": {"nodeName": "n", "containers": [{"name": "app", "image": "i"}], "volumes": [{"name": "v"}]},
    "status": {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "False", "message": "m"}],
        "containerStatuses": [{"name": "app", "image": "i", "state": {"waiting": {"reason": "r"}}, "restartCount": 1}],
    },
}
NODE = {"metadata": {"name": "n", "labels": {}}, "spec": {}, "status": {"nodeInfo": {"kernelVersion": "6.1"}}}


@target(lambda: [json.dumps(one).encode() for one in (POD, {"items": [POD]}, {"items": [NODE]})])
def api(data: bytes) -> None:
    """Any answer of an API server."""
    from kubernetes.client import Configuration

    reply = Reply(200, {"Content-Type": "application/json"}, data)
    with answering(reply) as address, Cluster(Configuration(host=f"http://{address}"), "default") as cluster:
        attempt(
            lambda: cluster.get_pod("b", "a").explain(),
            lambda: cluster.list_pods("b"),
            lambda: find_pools(cluster),
        )


def look_up_here(host: object, *arguments: object, **options: object) -> object:
    """A challenge may send for a token to anywhere."""
    if host != "127.0.0.1":
        raise socket.gaierror(socket.EAI_NONAME, "not in a test")
    return LOOK_UP(host, *arguments, **options)  # type: ignore[arg-type]


LOOK_UP = socket.getaddrinfo


@target(
    lambda: [
        b'Bearer realm="http://HERE/token",service="s",scope="repository:a:pull"\n{"token": "t"}',
        b'Basic realm="r"\n{}',
        b"\n" + document_seeds()[1][1:],
        b"\n" + document_seeds()[2][1:],
    ]
)
def registry(data: bytes) -> None:
    """Any answer of a registry: the first line is its challenge, empty for none; the rest is the body."""
    challenge, _, body = data.partition(b"\n")
    header = "".join(char for char in challenge.decode("latin-1") if char.isprintable())
    header = header.replace("HERE", serve())
    headers = {"WWW-Authenticate": header} if header else {"Content-Type": OCI_MANIFEST}
    reply = Reply(401 if header else 200, headers, body)
    with answering(reply) as address, patch("time.sleep"), patch("socket.getaddrinfo", look_up_here):
        reference = Reference(address, "app", tag="1")
        digest = "sha256:" + sha256(body).hexdigest()
        attempt(
            lambda: read_manifest(reference, access=http()),
            lambda: read_reports(reference, digest, artifact_type="t", access=http()),
        )
