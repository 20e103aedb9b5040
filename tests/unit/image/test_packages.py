"""The Debian packages of an image: those of the topmost database, or of a file for each."""

from __future__ import annotations

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import make_layout

from warmstart.core.errors import ImageError
from warmstart.image import packages
from warmstart.image.packages import DebianPackage, read_packages

LIBC = (
    "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36)\nVersion: 2.36-9+deb12u7\n"
)
TZDATA = "Package: tzdata\nStatus: install ok installed\nArchitecture: all\nVersion: 2024b-0+deb12u1\n"
REMOVED = "Package: perl\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 5.36.0-7\n"
UNPACKED = "Package: gone\nStatus: unknown ok not-installed\nArchitecture: amd64\nVersion: 1\n"
STATUS = "var/lib/dpkg/status"


@pytest.fixture
def read(tmp_path):
    def run(*layers: dict[str, str]) -> tuple[DebianPackage, ...]:
        tars = [tar_of(*(entry(name, text.encode()) for name, text in layer.items())) for layer in layers]
        return read_packages(make_layout(tmp_path / "image", *tars, annotations={}))

    return run


def test_installed_packages_are_listed(read):
    release = 'NAME="Ubuntu"\nID=ubuntu\n'
    assert read({STATUS: "\n".join([LIBC, REMOVED, UNPACKED, TZDATA]), "etc/os-release": release}) == (
        DebianPackage("libc6", "2.36-9+deb12u7", "amd64", "glibc", "ubuntu"),
        DebianPackage("tzdata", "2024b-0+deb12u1", "all", "tzdata", "ubuntu"),
    )


def test_the_topmost_database_counts(read):
    assert [one.name for one in read({STATUS: LIBC}, {"app": "x"}, {STATUS: TZDATA})] == ["tzdata"]


def test_images_without_a_shell_have_a_file_for_each_package(read):
    directory = f"{STATUS}.d"
    found = read(
        {
            f"{directory}/libc6": "Package: libc6\nVersion: 2.41-12\nArchitecture: amd64\n",
            f"{directory}/libc6.md5sums": LIBC,
        },
        {f"{directory}/tzdata": TZDATA},
    )
    assert [one.name for one in found] == ["libc6", "tzdata"]


def test_an_image_without_a_database_has_none(read):
    assert read({"app": "x"}) == ()


@pytest.mark.parametrize(
    "field", ["Package: ../../etc", "Package: a\x1b[2J", "Package:", "Version: 1 2", "Version: \x00"]
)
def test_what_is_no_package_is_left_out(read, field):
    name = field.partition(":")[0]
    broken = "\n".join(field if line.startswith(f"{name}:") else line for line in LIBC.splitlines())
    assert [one.name for one in read({STATUS: f"{broken}\n\n{TZDATA}"})] == ["tzdata"]


def test_a_database_that_is_too_large_is_refused(read, monkeypatch):
    monkeypatch.setattr(packages, "_FILE_LIMIT_BYTES", 100)
    with pytest.raises(ImageError, match="exceeds 100 bytes"):
        read({STATUS: LIBC + TZDATA})
