"""The documentation is well-formed Markdown: tables, code blocks, headings, links and anchors."""

import re
from functools import cache
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from documentation import PAGES, name_of, text_of

PARSER = MarkdownIt("commonmark").enable("table")
LANGUAGES = {"python", "console", "sh", "text", "json", "toml", "sql"}


@cache
def tokens(page):
    return PARSER.parse(text_of(page))


def inline(page):
    """The parts of all paragraphs, headings and cells of a page."""
    return [part for token in tokens(page) if token.type == "inline" for part in token.children]


def lines_of(page, *types):
    """The numbers of the lines that lie in blocks of some types."""
    spans = [token.map for token in tokens(page) if token.type in types]
    return {number for first, end in spans for number in range(first, end)}


def faults_of_tables(page):
    """Rows outside a table, and rows with more or fewer cells than their table's header."""
    lines = text_of(page).splitlines()
    inside, code = lines_of(page, "table_open"), lines_of(page, "fence")
    stray = [n for n, line in enumerate(lines) if line.startswith("|") and n not in inside | code]
    faults = [f"line {n + 1} looks like a row but is in no table" for n in stray]
    for token in tokens(page):
        if token.type == "table_open":
            first, end = token.map
            widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines[first:end]]
            faults += [
                f"line {first + n + 1} has not as many cells as its header"
                for n, width in enumerate(widths)
                if width != widths[0]
            ]
    return faults


def faults_of_code(page):
    """Fences that are not closed or name no known language, and code that is only indented."""
    lines, faults = text_of(page).splitlines(), []
    for token in tokens(page):
        if token.type == "code_block":
            faults.append(f"line {token.map[0] + 1}: indented code; use a fence")
        if token.type == "fence":
            first, end = token.map
            if lines[end - 1].strip() != token.markup or end - 1 == first:
                faults.append(f"line {first + 1}: the fence has no end")
            if token.info not in LANGUAGES:
                faults.append(f"line {first + 1}: {token.info!r} is not one of {sorted(LANGUAGES)}")
    return faults


def headings(page):
    """(level, text) of each heading."""
    found = tokens(page)
    return [
        (int(token.tag[1]), "".join(part.content for part in found[place + 1].children))
        for place, token in enumerate(found)
        if token.type == "heading_open"
    ]


@cache
def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    made, seen = set(), {}
    for _, text in headings(page):
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        seen[anchor] = seen.get(anchor, -1) + 1
        made.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
    return made


def targets(page):
    """What the links and pictures of a page lead to."""
    return [
        part.attrGet("href") or part.attrGet("src")
        for part in inline(page)
        if part.type in {"link_open", "image"}
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_and_code_blocks_are_whole(page):
    assert faults_of_tables(page) + faults_of_code(page) == []
    html = [token.content for token in tokens(page) if token.type == "html_block"]
    assert [text for text in html if not text.startswith("<!--")] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_headings_begin_with_a_title_and_skip_no_level(page):
    levels = [level for level, _ in headings(page)]
    assert levels[0] == 1
    assert 1 not in levels[1:]
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_lead_somewhere(page):
    for target in targets(page):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}"
    written = "".join(part.content for part in inline(page) if part.type == "text")
    assert re.findall(r"\]\(|\]\[", written) == []


def test_broken_markdown_is_found(tmp_path):
    page = tmp_path / "page.md"
    tables = "# A\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |\n\n| c |\n|---|\n| 1 | 2 |\n"
    page.write_text(f"{tables}\n    code\n\n```sh\nls\n")
    assert faults_of_tables(page) == [
        "line 7 looks like a row but is in no table",
        "line 11 has not as many cells as its header",
    ]
    assert faults_of_code(page) == ["line 13: indented code; use a fence", "line 15: the fence has no end"]
