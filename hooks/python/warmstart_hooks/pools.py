"""Pools of connections: emptied before the checkpoint, after the program's own callbacks, and filled after theirs.

Only libraries that the program has loaded are looked at, and only idle connections are closed: one in use is the
program's. Nearly all pools connect again by themselves when they are asked for a connection.
"""

import gc
import sys

# Pools that connect in advance, each with the function that has it do so again.
_emptied = []


def closers():
    """Return a function for each pool that empties it; with arguments, as a callback."""
    bases = [(getattr(sys.modules.get(module), name, None), close) for module, name, close in _KINDS]
    by_class = {each: close for base, close in bases if base for each in _with_subclasses(base)}
    if not by_class:
        return []
    # Not isinstance: it would ask a proxy for the object that it stands for, and perhaps make it.
    return [(by_class[type(each)], (each,), {}) for each in _list_objects() if type(each) in by_class]


def openers():
    """Return a function for each pool that was emptied and does not fill itself; with arguments, as a callback."""
    opened = [(open_again, (pool,), {}) for pool, open_again in _emptied]
    del _emptied[:]
    return opened


def _with_subclasses(base):
    yield base
    for each in type.__subclasses__(base):
        yield from _with_subclasses(each)


def _list_objects():
    """Return the objects that the collector knows, frozen ones too, which it does not list."""
    frozen = gc.get_freeze_count()
    if frozen:
        gc.unfreeze()
    try:
        return gc.get_objects()
    finally:
        if frozen:
            gc.freeze()


def _close_psycopg(pool):
    with pool._lock:
        connections = _take_idle(pool, _open_psycopg)
    for each in connections:
        each.close()


async def _close_psycopg_async(pool):
    async with pool._lock:
        connections = _take_idle(pool, _open_psycopg_async)
    for each in connections:
        await each.close()


def _take_idle(pool, open_again):
    """Take connections out of a pool. Its own methods would replace each of them at once."""
    connections = list(pool._pool)
    pool._pool.clear()
    pool._nconns -= len(connections)
    _emptied.append((pool, open_again))
    return connections


def _open_psycopg(pool):
    with pool._lock:
        _fill(pool)


async def _open_psycopg_async(pool):
    async with pool._lock:
        _fill(pool)


def _fill(pool):
    """Have the pool's workers connect as often as it takes for the smallest size that the pool may have."""
    module = sys.modules[_base(pool, "psycopg_pool.").__module__]
    while not pool._closed and pool._nconns < pool._min_size:
        pool._nconns += 1
        pool.run_task(module.AddConnection(pool))


def _base(instance, prefix):
    return next(each for each in type(instance).__mro__ if each.__module__.startswith(prefix))


def _close_sqlalchemy(engine):
    if engine.dialect.name == "sqlite":  # a database in memory would be lost with its connection
        return None
    if not getattr(engine.dialect, "is_async", False):
        return engine.dispose()
    return sys.modules["sqlalchemy.ext.asyncio"].AsyncEngine(engine).dispose()


def _close_redis(pool):
    pool.disconnect(inuse_connections=False)
    pool.reset()  # forgets the connections, which would connect to the old host


async def _close_redis_async(pool):
    await pool.disconnect(inuse_connections=False)
    pool.reset()


_KINDS = (
    ("psycopg_pool", "ConnectionPool", _close_psycopg),
    ("psycopg_pool", "AsyncConnectionPool", _close_psycopg_async),
    ("sqlalchemy.engine", "Engine", _close_sqlalchemy),
    ("redis.connection", "ConnectionPool", _close_redis),
    ("redis.asyncio.connection", "ConnectionPool", _close_redis_async),
    ("urllib3", "PoolManager", lambda pool: pool.clear()),
    ("httpcore", "ConnectionPool", lambda pool: pool.close()),
    ("httpcore", "AsyncConnectionPool", lambda pool: pool.aclose()),
)
