"""The page cache is dropped, or it is said why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from warmstart.bench.page_cache import drop_page_cache
from warmstart.core.errors import HostError


def test_clean_pages_are_dropped(tmp_path):
    control = tmp_path / "drop_caches"
    drop_page_cache(control)
    assert control.read_text() == "1"


@pytest.mark.linux
def test_a_kernel_that_refuses_is_one_clear_error():
    # A directory cannot be written to, whoever tries.
    with pytest.raises(HostError, match="cannot drop the page cache: /proc: Is a directory"):
        drop_page_cache(Path("/proc"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_an_ordinary_user_may_not():
    with pytest.raises(HostError, match="Permission denied"):
        drop_page_cache()
