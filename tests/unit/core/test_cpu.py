"""Features of the processor."""

from pathlib import Path

from warmstart.core.cpu import FEATURES, read_features


def test_features_that_programs_rely_on(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu fma avx2 avx512_vnni sse2\n\nprocessor\t: 1\nflags\t\t: adx\n")

    assert read_features(cpuinfo) == ("avx2", "avx512_vnni", "fma")


def test_a_machine_that_lists_none(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd\n")

    assert read_features(cpuinfo) == ()


def test_this_machine() -> None:
    assert set(read_features()) <= set(FEATURES)


def test_labels_are_named_as_labels_are() -> None:
    assert all(label.isalnum() and label.isupper() for label in FEATURES.values())
    assert len(set(FEATURES.values())) == len(FEATURES)
