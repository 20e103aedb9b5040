"""Push rights, asked of a real registry, and of one that refuses."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.support.registry_access import http
from warmstart.core.errors import RegistryError
from warmstart.core.reference import Reference
from warmstart.image.registry.push_access import check_push_access

UPLOADS = "^POST .*/blobs/uploads/"


@pytest.fixture
def target(proxy) -> Reference:
    return Reference(proxy.host, f"team/{uuid4().hex}", "1.0")


def test_an_upload_is_begun_and_taken_back(target, proxy):
    check_push_access(target, access=http())
    begin, cancel = proxy.writes()
    assert begin == f"POST /v2/{target.repository}/blobs/uploads/"
    assert cancel.startswith(f"DELETE /v2/{target.repository}/blobs/uploads/")


def test_a_registry_that_takes_nothing_back_is_good_enough(target, proxy):
    proxy.answer("^DELETE ", 405)
    check_push_access(target, access=http())


@pytest.mark.parametrize(("status", "hint"), [(403, "log in with"), (404, "repository created first"), (405, "")])
def test_who_may_not_push_is_told_as_by_a_push(target, proxy, status, hint):
    proxy.answer(UPLOADS, status)
    with pytest.raises(RegistryError, match=f"could not push to {target.name}: .* answered {status}") as caught:
        check_push_access(target, access=http())
    assert hint in caught.value.hint


def test_a_registry_that_stumbles_is_asked_again(target, proxy, pauses):
    proxy.answer(UPLOADS, 503)
    check_push_access(target, access=http())
    assert len(pauses) == 1


def test_a_registry_that_is_not_there(pauses):
    with pytest.raises(RegistryError, match=r"the connection to 127\.0\.0\.1:9 failed"):
        check_push_access(Reference("127.0.0.1:9", "team/app", "1.0"), access=http())
