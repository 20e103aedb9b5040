"""A benchmark as a page: complete, well-formed, and in need of nothing else. How it looks is for eyes to judge."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.benches import make_bench, make_full_bench, make_series, make_start

from warmstart.bench.page import render_page, write_page
from warmstart.bench.report import list_bench_sections
from warmstart.bench.result import Load
from warmstart.core.errors import HostError

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Which elements there are, and whether each that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def find_plots(text: str) -> list[ElementTree.Element]:
    """The plots; an error where one is not well-formed."""
    return [ElementTree.fromstring(plot) for plot in re.findall(r'<div class="plot">(.*?)</div>', text)]


def test_it_needs_nothing_else():
    text = render_page(make_full_bench())
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    tags = {tag for tag, _ in Page(text).elements}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    assert not any(name in attributes for _, attributes in Page(text).elements for name in ("src", "href"))


def test_everything_is_on_it():
    bench = make_full_bench()
    text = render_page(bench)
    page = Page(text)
    said = " ".join(page.texts)
    for section in list_bench_sections(bench):
        assert section.title in said
        for row in section.rows:
            assert all(cell in said for cell in row)
    assert "A restored start is 15.6 times as fast" in said
    assert "something was left out" in said
    assert "$" not in text
    # Each start once, those restored once more from closer, and each replica that was ready.
    assert page.count("circle") == 8 + 5 + 5
    assert page.count("polyline") == 4
    assert "Processor time of the first 3 requests, for each" in said


def test_plots_keep_within_their_width():
    plots = find_plots(render_page(make_full_bench()))
    assert len(plots) > 10
    for plot in plots:
        for element in plot.iter():
            for name in ("x", "x1", "x2", "cx", "width"):
                if (value := element.get(name, "")).endswith("%"):
                    assert 0 <= float(value[:-1]) <= 100
        bars = [element for element in plot if element.tag == "rect"]
        assert sum(float(bar.get("width", "").removesuffix("%")) for bar in bars) <= 100.1


def test_names_from_elsewhere_are_text():
    text = render_page(make_full_bench(subject='<script>alert("1")</script>&$title', notes=("<b>bold</b>",)))
    page = Page(text)
    assert page.count("script") == 0
    assert any('<script>alert("1")</script>&$title' in said for said in page.texts)
    assert any("<b>bold</b>" in said for said in page.texts)


@settings(max_examples=30, deadline=None)
@given(
    cold=st.lists(st.floats(0.0001, 500), min_size=1, max_size=5),
    restored=st.lists(st.floats(0.0001, 500), min_size=1, max_size=5),
    requests=st.lists(st.floats(0.00001, 30), max_size=3),
)
def test_any_figures_can_be_drawn(cold, restored, requests):
    bench = make_bench(
        make_series("cold", [make_start(total_s, requests_s=requests) for total_s in cold]),
        make_series("plain", [make_start(total_s, requests_s=requests) for total_s in restored]),
        load=Load(requests=len(requests)),
    )
    text = render_page(bench)
    Page(text)
    find_plots(text)


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path):
    write_page(tmp_path / "page.html", make_full_bench())
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    with pytest.raises(HostError, match=r"cannot write .*: Is a directory"):
        write_page(tmp_path, make_full_bench())
