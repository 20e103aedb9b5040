"""A notebook kept in memory: notes are written, read and searched over HTTP."""

from __future__ import annotations

import gc
import hashlib
import os
import re
import uuid
import zlib
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import count

from fastapi import FastAPI, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

BLOCK_BYTES = 8192

app = FastAPI(title="notes", openapi_url=None)
instance_id = uuid.uuid4()
started_at = datetime.now(UTC)
requests = 0
notes: dict[int, Note] = {}
index: defaultdict[str, set[int]] = defaultdict(set)
next_id = count(1)


class Draft(BaseModel):
    """A note as it is sent in."""

    title: str = Field(min_length=1, max_length=200)
    text: str = Field(max_length=10_000)


class Note(Draft):
    """A note as it is kept."""

    id: int
    written_at: datetime


class Verification(BaseModel):
    """How many blocks were checked, how many did not hold what they must, and a CRC-32 over them all."""

    blocks: int
    corrupt: int
    checksum: str


class LiveData:
    """Ballast that stands for the heap of a bigger service; what a block holds follows from its number."""

    def __init__(self, size_mb: int) -> None:
        self.blocks = [_block(number) for number in range(_blocks_in(size_mb))]
        self.checksums = [zlib.crc32(block) for block in self.blocks]

    def verify(self) -> Verification:
        """Read every block and compare it with the checksum it had at start-up."""
        checks = zip(self.blocks, self.checksums, strict=True)
        corrupt = sum(zlib.crc32(block) != checksum for block, checksum in checks)
        return _verification(self.blocks, corrupt)


def _blocks_in(size_mb: int) -> int:
    return size_mb * 1024 * 1024 // BLOCK_BYTES


def _block(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8)).digest() * (BLOCK_BYTES // 32)


def _verification(blocks: list[bytes], corrupt: int) -> Verification:
    checksum = 0
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    return Verification(blocks=len(blocks), corrupt=corrupt, checksum=f"{checksum:08x}")


live_data = LiveData(int(os.environ.get("LIVE_DATA_SIZE_MB", "0")))


@app.middleware("http")
async def count_requests(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Count every request but the readiness probe's."""
    global requests
    requests += request.url.path != "/healthz"
    return await call_next(request)


@app.get("/healthz")
async def healthz() -> str:
    """Answer the readiness probe."""
    return "ok"


@app.get("/state")
async def state() -> dict[str, object]:
    """Tell which process answers: a restored one goes on with its id, start time and counts."""
    return {
        "instanceId": instance_id,
        "startedAt": started_at,
        "requests": requests,
        "notes": len(notes),
        "pid": os.getpid(),
    }


@app.post("/notes", status_code=201)
async def write(draft: Draft) -> Note:
    """Keep a note."""
    note = Note(id=next(next_id), written_at=datetime.now(UTC), **draft.model_dump())
    notes[note.id] = note
    for word in _words(f"{note.title} {note.text}"):
        index[word].add(note.id)
    return note


@app.get("/notes/{note_id}")
async def read(note_id: int) -> Note:
    """Return a note."""
    if note_id not in notes:
        raise HTTPException(404, f"no note {note_id}")
    return notes[note_id]


@app.get("/search")
async def search(q: str, limit: int = Query(10, ge=1, le=100)) -> list[Note]:
    """Return the notes that have every word of the query, the newest first."""
    sets = [index.get(word, set()) for word in _words(q)]
    found = set.intersection(*sets) if sets else set()
    return [notes[note_id] for note_id in sorted(found, reverse=True)[:limit]]


@app.get("/live-data/checksum")
async def checksum() -> Verification:
    """Check all live data."""
    return live_data.verify()


@app.post("/live-data/churn")
async def churn(mb: int = Query(ge=1, le=65536)) -> Verification:
    """Allocate and drop so many mebibytes, checking that fresh memory is zero: what is given back is used again."""
    corrupt = 0
    checksum = 0
    for number in range(_blocks_in(mb)):
        fresh = bytearray(BLOCK_BYTES)
        corrupt += any(fresh)
        fresh[:] = _block(number)
        checksum = zlib.crc32(fresh, checksum)
    return Verification(blocks=_blocks_in(mb), corrupt=corrupt, checksum=f"{checksum:08x}")


@app.get("/collect")
async def collect() -> dict[str, int]:
    """Collect garbage, and keep what is left out of every later collection.

    A collection writes to the header of each object it looks at, and a page that is written to is a page that
    the replicas of a restored image no longer share.
    """
    collected = gc.collect()
    gc.freeze()
    return {"collected": collected, "frozen": gc.get_freeze_count()}


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
