"""A target RECIPE|IMAGE|ARCHIVE: a file that is missing is not looked for in a registry."""

from __future__ import annotations

import pytest

from warmstart.cli.target import require_present
from warmstart.core.errors import InputError


@pytest.mark.parametrize("target", ["no.yaml", "no.yml", "no.json", "no.tar", "./no", "../no", "/no/such", "./no:1"])
def test_a_missing_file_is_refused(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match="no such file"):
        require_present(target)


@pytest.mark.parametrize("target", ["-", "app", "app:1", "localhost:5000/app:1", "oci:./no", "oci-archive:no.tar"])
def test_an_image_need_not_be_a_file(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert require_present(target) == target


def test_a_file_that_is_there_is_a_target(tmp_path):
    file = tmp_path / "app.yaml"
    file.touch()

    assert require_present(str(file)) == str(file)
