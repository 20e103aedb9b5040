"""What is renewed in each replica without the program's help. Only what is loaded already is touched."""

import os
import sys
import time

_ENVIRONMENT = "/.warmstart/env"
_ENTROPY_BYTES = 64

# RAND_add of each OpenSSL that is loaded beside Python's own, such as that of psycopg's binary package.
_openssl_rand_add = []


def prepare():
    """Look up before the checkpoint what would take time after the restore."""
    del _openssl_rand_add[:]
    paths = _mapped_libraries("libcrypto")
    if not paths:
        return
    try:
        import ctypes
    except ImportError:  # a Python without it
        return
    for path in paths:
        try:
            rand_add = ctypes.CDLL(path, mode=os.RTLD_NOLOAD).RAND_add
        except (OSError, AttributeError):
            continue
        rand_add.argtypes, rand_add.restype = [ctypes.c_char_p, ctypes.c_int, ctypes.c_double], None
        _openssl_rand_add.append(rand_add)


def renew(initial_environ):
    """Renew everything that is known to be the same in all replicas.

    Args:
        initial_environ: the environment at the start of the program.
    """
    _renew_environ(initial_environ)
    time.tzset()
    _renew_random()
    _renew_openssl()
    _renew_uuid()
    _forget_names()


def _mapped_libraries(prefix):
    with open("/proc/self/maps", errors="surrogateescape") as maps:
        paths = {line.split(None, 5)[5].rstrip("\n") for line in maps if "/" in line}
    return sorted(path for path in paths if os.path.basename(path).startswith(prefix))


def _renew_environ(initial):
    late = os.environ.get("WARMSTART_HOOKS_LATE", "").split(",")
    try:
        with open(_ENVIRONMENT, "rb") as file:
            content = file.read()
    except OSError:
        return
    new = dict(os.fsdecode(each).split("=", 1) for each in content.split(b"\0") if b"=" in each)
    if not new:  # restored by a runtime, which does not tell
        return
    if "*" in late:
        # A variable that the program has set itself keeps its value.
        late = [name for name in {**initial, **new} if os.environ.get(name) == initial.get(name)]
    for name in filter(None, late):
        if name in new:
            os.environ[name] = new[name]
        else:
            os.environ.pop(name, None)


def _renew_random():
    random = sys.modules.get("random")
    if random is not None:
        random.seed(os.urandom(_ENTROPY_BYTES))
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed([int.from_bytes(os.urandom(4), "little") for _ in range(8)])
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(int.from_bytes(os.urandom(8), "little", signed=True))


def _renew_openssl():
    ssl = sys.modules.get("_ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(_ENTROPY_BYTES), 0.0)
    for rand_add in _openssl_rand_add:
        rand_add(os.urandom(_ENTROPY_BYTES), _ENTROPY_BYTES, 0.0)


def _renew_uuid():
    """Renew what uuid1 makes its ids of: libuuid keeps a node and a sequence of its own, so it is not used any more."""
    uuid = sys.modules.get("uuid")
    if uuid is None:
        return
    uuid._generate_time_safe = None
    if hasattr(uuid, "_random_getnode"):
        uuid._node = uuid._random_getnode()


def _forget_names():
    """Forget names that were made for the build: random names of files, and the host's."""
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None
    synchronize = sys.modules.get("multiprocessing.synchronize")
    if synchronize is not None:
        synchronize.SemLock._rand = type(synchronize.SemLock._rand)()
    platform = sys.modules.get("platform")
    if platform is not None:
        platform._uname_cache = None
