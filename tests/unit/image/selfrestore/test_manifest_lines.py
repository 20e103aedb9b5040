"""Lines that a build adds to the launcher's manifest."""

from __future__ import annotations

import hashlib

import pytest

from warmstart.core.errors import PreflightError, RecipeError
from warmstart.image.selfrestore.manifest_lines import (
    check_steps,
    describe_steps,
    describe_variables,
    escape_word,
    make_salt,
)
from warmstart.recipe.model import Exec, HttpGet, OnDifference, Signal, Step

SALT = b"0123456789abcdef"


@pytest.mark.parametrize(
    ("word", "escaped"),
    [
        ("/bin/sh", "/bin/sh"),
        ("two words", "two\\x20words"),
        ("a\\b\n", "a\\x5cb\\x0a"),
        ("ä", "\\xc3\\xa4"),
        ("\udcff", "\\xff"),
        ("", "\\"),
    ],
)
def test_a_word_is_one_word_whatever_is_in_it(word, escaped):
    assert escape_word(word) == escaped


def test_variables_are_described_without_their_values():
    lines = describe_variables({"URL": "jdbc://x", "PASSWORD": "hidden"}, ["PASSWORD"], OnDifference.COLD, SALT)
    assert lines == [
        "difference cold",
        f"salt {SALT.hex()}",
        "late PASSWORD",
        f"frozen {hashlib.sha256(SALT + b'URL=jdbc://x').hexdigest()} URL",
    ]


def test_each_image_has_a_salt_of_its_own():
    one, other = (describe_variables({"A": "b"}, [], OnDifference.WARN, make_salt(of)) for of in ("1d", "2e"))
    assert one[0] == other[0] == "difference warn"
    assert one[1] != other[1]
    assert one[-1] != other[-1]


def test_late_may_be_all():
    assert describe_variables({"A": "b"}, ["*"], OnDifference.COLD, SALT)[2:] == ["late *"]


def test_what_differs_in_each_container_or_is_the_launchers_own_is_not_compared():
    variables = {"HOSTNAME": "x", "WARMSTART": "off", "WARMSTART_ON_DIFFERENCE": "warn"}
    assert describe_variables(variables, [], OnDifference.COLD, SALT)[2:] == []


def test_steps_are_described_in_order():
    steps = [
        Step(Exec(("refresh", "$(APP_PID)", "two words")), timeout_s=1.5),
        Signal("SIGHUP"),
        Step(HttpGet(8080, "/a b?c=d#e", headers=(("X", "y"), ("Connection", "keep-alive")), method="POST")),
        Step(HttpGet(8080, host="::1", headers=(("host", "other"),))),
    ]
    assert describe_steps(steps, 100) == [
        "step exec 1500 refresh 100 two\\x20words",
        "step signal 1",
        "step http 30000 8080 - POST\\x20/a%20b?c=d\\x20HTTP/1.1\\x0d\\x0aHost:\\x20localhost:8080\\x0d\\x0a"
        "User-Agent:\\x20warmstart\\x0d\\x0aX:\\x20y\\x0d\\x0aConnection:\\x20close\\x0d\\x0a"
        "Content-Length:\\x200\\x0d\\x0a\\x0d\\x0a",
        "step http 30000 8080 ::1 GET\\x20/\\x20HTTP/1.1\\x0d\\x0aUser-Agent:\\x20warmstart\\x0d\\x0a"
        "host:\\x20other\\x0d\\x0aConnection:\\x20close\\x0d\\x0a\\x0d\\x0a",
    ]


def test_a_request_with_tls_is_refused():
    with pytest.raises(PreflightError, match=r"afterRestore\[1\].httpGet: .* TLS"):
        check_steps([Signal("SIGHUP"), Step(HttpGet(8443, scheme="HTTPS"))])


def test_a_header_cannot_add_another_one():
    with pytest.raises(RecipeError, match="line break"):
        describe_steps([Step(HttpGet(80, headers=(("X", "y\r\nZ: z"),)))], 1)
