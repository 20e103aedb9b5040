"""How layers are divided and joined."""

from __future__ import annotations

import pytest

from warmstart.dump.archive.tarball import Kind, Member
from warmstart.image.layer_parts import can_join, divide_members


def divide(*members: Member | str, part_bytes: int = 10) -> list[list[str]]:
    """Divide files, NAME or NAME=SIZE, directories, NAME/, and other members."""
    return divide_members(by_name(*members), part_bytes)


def make(text: str) -> Member:
    name, _, size = text.partition("=")
    kind = Kind.DIRECTORY if name.endswith("/") else Kind.FILE
    return Member(name.rstrip("/"), kind, int(size or 0), 0)


def link(name: str, target: str, kind: Kind = Kind.HARDLINK) -> Member:
    return Member(name, kind, 0, 0, target)


def test_a_part_has_no_more_than_its_size():
    assert divide("a=6", "b=4", "c=1", "d=10", "e=1") == [["a", "b"], ["c"], ["d"], ["e"]]


def test_a_file_that_is_too_large_is_a_part_of_its_own():
    assert divide("a=1", "b=99", "c=1") == [["a"], ["b"], ["c"]]


def test_a_small_layer_is_one_part():
    assert divide("a=1", "b/", "b/c=9") == [["a", "b", "b/c"]]


def test_a_layer_without_files_is_one_part():
    assert divide() == [[]]
    assert divide("a/", link("b", "a", Kind.SYMLINK)) == [["a", "b"]]


def test_files_without_content_begin_no_part():
    assert divide("a=10", "b", "c/", "d=1") == [["a", "b", "c"], ["d"]]


def test_each_part_has_the_directories_of_its_files():
    parts = divide("/", "usr/", "usr/lib/", "usr/lib/a=9", "usr/bin/", "usr/bin/b=9", "other=1")
    assert parts == [["", "usr", "usr/lib", "usr/lib/a", "usr/bin"], ["", "usr", "usr/bin", "usr/bin/b", "other"]]


def test_directories_without_a_member_stay_so():
    assert divide("usr/lib/a=9", "usr/lib/b=9") == [["usr/lib/a"], ["usr/lib/b"]]


def test_hard_links_are_in_the_part_of_their_file():
    parts = divide("a=9", "b=9", "d/", link("d/c", "./a"), link("e", "d/c"))
    assert parts == [["a", "d", "d/c", "e"], ["b"]]


def test_a_hard_link_comes_after_its_file():
    assert divide(link("a", "/b"), "b=9", "c=9") == [["b", "a"], ["c"]]


def test_hard_links_that_lead_nowhere_are_kept():
    assert divide("a=9", link("b", "gone"), link("c", "c"), "d=9", link("e", "gone")) == [["a", "b", "e", "c"], ["d"]]


def test_marks_of_what_is_removed_are_in_the_first_part():
    parts = divide("a=9", "b/", "b/c=9", "b/.wh..wh..opq", "d/", "d/.wh.gone")
    assert parts == [["a", "b", "b/.wh..wh..opq", "d", "d/.wh.gone"], ["b", "b/c", "d"]]


def test_a_layer_with_files_below_a_symbolic_link_is_one_part():
    members = ["usr/", "usr/lib/", link("lib", "usr/lib", Kind.SYMLINK), "lib/a=9", "lib/b=9"]
    assert divide(*members) == [["usr", "usr/lib", "lib", "lib/a", "lib/b"]]


@pytest.mark.parametrize(
    ("below", "above", "joined"),
    [
        (["usr/", "usr/a"], ["usr/", "usr/b", link("c", "usr/b")], True),
        (["usr/", "usr/a"], ["usr/a"], False),
        (["usr/"], ["usr"], False),
        (["usr"], ["usr/"], False),
        (["usr/a"], ["usr"], False),
        (["usr/", "usr/a"], ["usr/.wh.a"], False),
        ([".wh.usr"], ["a"], False),
        ([link("lib", "usr/lib", Kind.SYMLINK)], ["lib/a"], False),
        (["lib/a"], [link("lib", "usr/lib", Kind.SYMLINK)], False),
    ],
)
def test_layers_can_be_joined_that_hide_nothing_of_each_other(below, above, joined):
    assert can_join(by_name(*below), by_name(*above)) is joined


def by_name(*members: Member | str) -> dict[str, Member]:
    made = [member if isinstance(member, Member) else make(member) for member in members]
    return {member.name: member for member in made}
