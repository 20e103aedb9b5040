"""Which versions of runc, crun and CRIU have the fixes for crafted links."""

from __future__ import annotations

import pytest

from warmstart.node.advisories import CRIU, CRUN, RUNC, find_version


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ("1.1.12", False),
        ("1.3.6+ds1-1", False),
        ("1.3.7", True),
        ("1.3.10", True),
        ("1.4.3", False),
        ("1.4.4", True),
        ("1.5.0-rc.1", False),
        ("1.5.2", False),
        ("v1.5.3", True),
        ("1.6.0", True),
        ("2.0", True),
        ("", None),
        ("unknown", None),
    ],
)
def test_versions_of_runc(version, fixed):
    assert RUNC.is_fixed(version) is fixed


@pytest.mark.parametrize(("version", "fixed"), [("1.14.4", False), ("1.28-1", False), ("1.29", None), ("2.0", None)])
def test_versions_of_crun(version, fixed):
    assert CRUN.is_fixed(version) is fixed
    if version:
        assert "1.28 and older are affected" in CRUN.describe(version)


@pytest.mark.parametrize(("version", "fixed"), [("4.2.1", False), ("4.3", False), ("4.3.1", True), ("4.4", True)])
def test_versions_of_criu(version, fixed):
    assert CRIU.is_fixed(version) is fixed


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("runc version 1.5.3\nspec: 1.3.0\n", "1.5.3"),
        ("runc version 1.3.6+ds1\n", "1.3.6+ds1"),
        ("crun version 1.28\ncommit: 12345\n", "1.28"),
        ("Version: 4.2.1\nGitID: v4.2.1\n", "4.2.1"),
        ("command not found", ""),
    ],
)
def test_what_a_program_says_of_itself(output, version):
    assert find_version(output) == version
