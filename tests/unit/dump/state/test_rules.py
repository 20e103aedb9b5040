"""Each thing that the kernel shows is either compared, or named with a reason why it is not."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.traits import SUBJECTS

from warmstart.dump.state.model import IDENTITY, NAME
from warmstart.dump.state.read import read_state
from warmstart.dump.state.rules import FIXES, SILENT, SILENT_PREFIXES, find_rule
from warmstart.dump.state.sockets import list_options


def is_known(name: str) -> bool:
    compared = any(find_rule(subject, name) for subject in SUBJECTS)
    return compared or name in SILENT or name.startswith(tuple(SILENT_PREFIXES))


@pytest.mark.linux
def test_each_field_of_a_status_is_known():
    names = re.findall(r"^(\w+):", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert len(names) > 30
    assert [name for name in names if not is_known(name)] == []


@pytest.mark.linux
def test_each_fact_is_compared_except_those_with_a_reason():
    facts = [
        (subject, name) for subject, each in read_state(Path("/proc"), os.getpid()).subjects.items() for name in each
    ]
    assert [each for each in facts if find_rule(*each) is None and each[1] not in SILENT] == []


def test_each_option_is_known():
    assert len(set(list_options())) > 80
    assert [name for name in list_options() if not is_known(name)] == []


def test_nothing_is_both_compared_and_silent():
    assert [name for name in SILENT for subject in SUBJECTS if find_rule(subject, name)] == []
    assert {IDENTITY, NAME} <= SILENT.keys()


def test_each_rule_has_a_fix():
    names = [*list_options(), "Uid", "Umask", "locks", "groups", "Cpus_allowed_list", "limit open files", "SigCgt"]
    rules = [find_rule(subject, name) for subject in SUBJECTS for name in names]
    assert {rule.code for rule in rules if rule} <= FIXES.keys()
