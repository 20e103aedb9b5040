"""The options of `save`, `migrate` and `drain-save` about secrets in the image."""

from __future__ import annotations

import click
import pytest

from warmstart.cli.options import secrets_options
from warmstart.core.errors import InputError
from warmstart.recipe.model import AllowedSecret, OnSecret, SecretSearch


@pytest.fixture
def read():
    """Return the search that options ask for, or raise the error of the command."""

    def run(*words: str) -> SecretSearch:
        found: list[SecretSearch] = []
        command = click.command()(secrets_options(lambda search: found.append(search)))
        command.main(list(words), standalone_mode=False)
        return found[0]

    return run


def test_by_default_the_search_warns(read):
    assert read() == SecretSearch()


def test_values_of_files_must_not_be_in_the_image(read, tmp_path):
    file = tmp_path / "prod.env"
    file.write_text("PASSWORD=correct-horse\n")
    search = read("--secrets", "warn", "--values", str(file))
    assert search.on_found is OnSecret.WARN
    [value] = search.real
    assert (value.value, "PASSWORD" in value.name) == (b"correct-horse", True)


def test_a_file_that_is_not_there_is_an_error(read, tmp_path):
    with pytest.raises(InputError, match=r"prod\.env"):
        read("--values", str(tmp_path / "prod.env"))


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("jwt=only samples", AllowedSecret("jwt", "only samples")),
        ("jwt:file /app/*=a=b", AllowedSecret("jwt", "a=b", place="file /app/*")),
    ],
)
def test_a_kind_is_allowed_with_a_reason(read, text, allowed):
    assert read("--allow-secret", text).allowed == (allowed,)


@pytest.mark.parametrize("text", ["jwt", "jwt=", "=reason", ""])
def test_an_entry_without_a_reason_is_refused(read, text):
    with pytest.raises(click.BadParameter, match="expected KIND=REASON"):
        read("--allow-secret", text)
