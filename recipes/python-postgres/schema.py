"""Create the guest book's table: `python3 -m schema`, before the service starts."""

from __future__ import annotations

import psycopg
from guestbook import connection_settings

TABLE = """
CREATE TABLE IF NOT EXISTS entry (
    id         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name       text NOT NULL,
    text       text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now()
)
"""

if __name__ == "__main__":
    with psycopg.connect(**connection_settings()) as connection:
        connection.execute(TABLE)
