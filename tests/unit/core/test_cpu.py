"""Features of the processor."""

import pytest

from warmstart.core.cpu import FEATURES, find_features, read_features


def test_features_that_programs_rely_on() -> None:
    cpuinfo = "processor\t: 0\nflags\t\t: fpu fma avx2 avx512_vnni sse2\n\nprocessor\t: 1\nflags\t\t: adx\n"

    assert find_features(cpuinfo) == ("avx2", "avx512_vnni", "fma")


def test_a_machine_that_lists_none() -> None:
    assert find_features("processor\t: 0\nFeatures\t: fp asimd\n") == ()


@pytest.mark.linux
def test_this_machine() -> None:
    assert set(read_features()) <= set(FEATURES)


def test_labels_are_named_as_labels_are() -> None:
    assert all(label.isalnum() and label.isupper() for label in FEATURES.values())
    assert len(set(FEATURES.values())) == len(FEATURES)
