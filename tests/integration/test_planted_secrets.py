"""A build finds each secret that a program holds, wherever it is, and refuses the image."""

from __future__ import annotations

import base64
import json
import secrets

import pytest
from support import evaluator
from support.planted import make_jwt, make_pem, make_rsa_key, make_token

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.errors import SecretError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.recipe.load import load_recipe

pytestmark = pytest.mark.node

# The program has the secrets, in reverse, from a file on a volume, which the image does not contain.
BEGIN = """
import base64, ctypes, json, mmap, multiprocessing, threading, time
planted = json.load(open('/planted/values.json'))
def take(name, end=''):
    return (planted.pop(name) + end)[::-1]

latin, two_bytes, four_bytes = take('latin'), take('two_bytes', '\\u20ac'), take('four_bytes', '\\U0001f600')
data = bytearray(take('bytes').encode())
open('/tmp/settings', 'w').write('token: ' + take('file'))
deleted = open('/tmp/deleted', 'w+')
deleted.write('x' * 5000 + take('deleted')); deleted.flush(); os.unlink('/tmp/deleted')
mapped = mmap.mmap(-1, 1 << 20)
mapped.write(take('mmap').encode())
pem, jwt, url, token = (planted.pop(name) for name in ('pem', 'jwt', 'url', 'token'))
der = base64.b64decode(planted.pop('der'))

def other(value):
    time.sleep(1 << 20)

multiprocessing.get_context('fork').Process(target=other, args=(take('child', '!'),), daemon=True).start()

class Block(ctypes.Structure):
    _fields_ = [('text', ctypes.c_char * 64)]

libc = ctypes.CDLL(None)
libc.sleep.argtypes = [ctypes.c_uint, Block]
thread = threading.Thread(target=libc.sleep, args=(1 << 20, Block(take('stack').encode())), daemon=True)
thread.start()
"""
KNOWN = ("env", "latin", "two_bytes", "four_bytes", "bytes", "file", "deleted", "mmap", "stack", "child")


def test_each_of_the_planted_secrets_is_found(tree, cache, tmp_path):
    values = {name: secrets.token_urlsafe(18) for name in KNOWN}
    key = make_rsa_key()
    ruled = {
        "private-key": make_pem(make_rsa_key()),
        "jwt": make_jwt(),
        "connection-url": f"postgresql://shop:{secrets.token_urlsafe(12)}7@db:5432/shop",
        "github-token": make_token(),
    }
    given = {name: value[::-1] for name, value in values.items() if name != "env"}
    given |= {
        "token": ruled["github-token"],
        "pem": ruled["private-key"],
        "jwt": ruled["jwt"],
        "url": ruled["connection-url"],
    }
    document = evaluator.make_document(
        "localhost/tests/planted:1",
        begin=BEGIN,
        container={
            "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "app", "key": "env"}}}],
            "volumeMounts": [{"name": "planted", "mountPath": "/planted", "readOnly": True}],
        },
        volumes=[{"name": "planted", "secret": {"secretName": "planted"}}],
        build={
            "secrets": {
                "app": {"env": values["env"]},
                "planted": {"values.json": json.dumps({**given, "der": base64.b64encode(key).decode()})},
            }
        },
        secrets={"found": "refuse", "files": ["values"]},
        restore=["self"],
    )
    (tmp_path / "values").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    target, progress = tmp_path / "image", Progress(SilentListener())
    with pytest.raises(SecretError, match="secrets that must not be published") as caught:
        build_image(load_recipe(tmp_path / "recipe.yaml"), BuildOptions(cache, Output(Transport.OCI, target)), progress)
    assert not target.exists()
    lines = [line for line in caught.value.details if not line.startswith("  to fix")]
    print(*caught.value.details, sep="\n")
    found = {line.partition(":")[0].partition(",")[0].split(" …")[0]: line for line in lines}
    assert sorted(name for name in KNOWN if name not in found) == []
    for title in ("private key (PEM)", "RSA private key (DER)", "JSON Web Token", "password in a URL", "GitHub token"):
        assert any(line.startswith(title) for line in lines), title
    told = "\n".join([*caught.value.details, *progress.warnings])
    assert [one for one in [*values.values(), *ruled.values()] if one in told] == []
    assert "[stack]" in found["env"] or "[heap]" in found["env"] or "environment" in found["env"]
    assert "file /tmp/settings" in found["file"]
    assert "a deleted file" in found["deleted"]
    assert "shared memory" in found["mmap"]
    assert "[stack of thread" in found["stack"]
    assert "process 1 " not in found["child"]
