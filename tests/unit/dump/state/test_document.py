"""The record of the kernel state in an image is small, and read as untrusted."""

from __future__ import annotations

import json

import pytest

from warmstart.core.errors import ImageError
from warmstart.dump.state.document import MAX_BYTES, parse_state, write_state
from warmstart.dump.state.model import KernelState

FACTS = {"nice": "0", "Umask": "0022"}


def test_it_is_read_as_it_was_written():
    state = KernelState(
        {"network": {}, "process 7": FACTS, "thread 7": {"nice": "1"}, "descriptor 7 0": {"is": "\x1bä"}}
    )
    assert parse_state(write_state(state)) == state


def test_threads_that_are_alike_are_written_once():
    state = KernelState({f"thread {number}": FACTS for number in range(100)})
    assert len(write_state(state)) < 2000


def test_descriptors_are_left_out_of_a_record_that_is_too_large():
    many = {f"descriptor 7 {number}": {"is": f"/data/{number}"} for number in range(5000)}
    text = write_state(KernelState({**many, "thread 7": FACTS}))
    assert len(text.encode()) <= MAX_BYTES
    found = parse_state(text)
    assert found.subjects["thread 7"] == FACTS
    assert len(found.subjects) + json.loads(text)["leftOut"] == 5001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[]", "is not understood"),
        ('{"version": 2}', "another version"),
        ('{"version": 1}', "is not understood"),
        ('{"version": 1, "groups": [7]}', "is not understood"),
        ('{"version": 1, "groups": [{"of": ["a"], "facts": {"b": 1}}]}', "is not understood"),
        ('{"version": 1, "groups": [{"of": [1], "facts": {}}]}', "is not understood"),
        ('{"version": 1, "groups": [{"of": ["thread a"], "facts": {}}]}', "is not understood"),
        ('{"version": 1, "groups": [{"of": ["descriptor 1 2"], "facts": {}}]}', "is not understood"),
        (json.dumps({"version": 1, "groups": [{"of": ["a"], "facts": {"b": "c" * 5000}}]}), "is not understood"),
        ('{"version": 1, "version": 1}', "more than once"),
        ("[" * 60000, "nested too deeply"),
        ('"' + "a" * MAX_BYTES + '"', "exceeds 65536 bytes"),
        ('{"version": 1, "groups": [], "a": "\ud800"}', "is not UTF-8"),
    ],
)
def test_a_bad_record_is_one_error(text, said):
    with pytest.raises(ImageError, match=said):
        parse_state(text)


def test_a_fact_that_is_too_long_is_left_out():
    long = KernelState({"descriptor 7 3": {**FACTS, "is": "epoll", "watched descriptors": "1," * 3000}})
    assert parse_state(write_state(long)).subjects == {"descriptor 7 3": {**FACTS, "is": "epoll"}}
