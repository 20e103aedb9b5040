"""A guest book: the entries are in PostgreSQL, the number of visits is in Redis."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, Field
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from snapshot_restore_py import register_after_restore

PASSWORD_FILE = Path("/etc/guestbook/password")

started_at = datetime.now(UTC)


class Draft(BaseModel):
    """An entry as it is sent in."""

    name: str = Field(min_length=1, max_length=200)
    text: str = Field(max_length=10_000)


class Entry(Draft):
    """An entry as it is kept."""

    id: int
    written_at: datetime


def connection_settings() -> dict[str, Any]:
    """Return how to connect to PostgreSQL now. The mounted password may have changed since the last time."""
    return {
        "host": os.environ.get("DB_HOST", "localhost"),
        "dbname": "guestbook",
        "user": "guestbook",
        "password": PASSWORD_FILE.read_text().strip(),
        "connect_timeout": 3,
    }


# `check` replaces connections that have died.
pool = AsyncConnectionPool(
    # Called for each new connection.
    kwargs=lambda: {**connection_settings(), "autocommit": True, "row_factory": dict_row},
    min_size=1,
    max_size=4,
    open=False,
    check=AsyncConnectionPool.check_connection,
)
redis = Redis(
    host=os.environ.get("REDIS_HOST", "localhost"),
    socket_timeout=3,
    socket_connect_timeout=3,
    retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 5),
)


@register_after_restore
def use_the_pods_redis() -> None:
    """Connect to the pod's Redis: the hooks of a warm image have closed the connections to the build's."""
    redis.connection_pool.connection_kwargs["host"] = os.environ.get("REDIS_HOST", "localhost")


@asynccontextmanager
async def connected(_app: FastAPI) -> AsyncIterator[None]:
    """Keep the connections for as long as the service runs."""
    async with pool, redis:
        yield


app = FastAPI(title="guest book", openapi_url=None, lifespan=connected)


@app.get("/healthz")
async def healthz() -> str:
    """Answer the readiness probe: the database and Redis answer as well."""
    await redis.ping()
    async with pool.connection() as connection:
        await connection.execute("SELECT 1")
    return "ok"


@app.get("/state")
async def state() -> dict[str, object]:
    """Tell which process answers: a restored one goes on with its start time."""
    async with pool.connection() as connection:
        found = await (await connection.execute("SELECT count(*) AS entries FROM entry")).fetchone()
    return {"startedAt": started_at, "visits": await redis.incr("visits"), **(found or {})}


@app.post("/entries", status_code=201)
async def write(draft: Draft) -> Entry:
    """Keep an entry."""
    command = "INSERT INTO entry (name, text) VALUES (%(name)s, %(text)s) RETURNING *"
    async with pool.connection() as connection:
        return Entry.model_validate(await (await connection.execute(command, draft.model_dump())).fetchone())


@app.get("/entries")
async def read() -> list[Entry]:
    """Return the newest entries."""
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT * FROM entry ORDER BY id DESC LIMIT 10")
        return [Entry.model_validate(row) for row in await cursor.fetchall()]
