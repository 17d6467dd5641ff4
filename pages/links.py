"""Links that lead nowhere, in the Markdown files of the repository and in the pages made from them. Other hosts are not asked."""

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

_LINKS = {"a": "href", "link": "href", "area": "href", "img": "src", "script": "src", "iframe": "src", "source": "src"}


def parser() -> MarkdownIt:
    """Markdown as the repository's host shows it, as far as the files use it."""
    return MarkdownIt("commonmark").enable("table")


def markdown_files(root: Path) -> list[Path]:
    """The files that become pages, README first."""
    above = sorted(root.glob("*.md"), key=lambda path: (path.name != "README.md", path.name))
    return [*above, *sorted((root / "docs").rglob("*.md"))]


def broken_in_markdown(root: Path, pages: list[Path]) -> list[str]:
    """A line for each relative link whose file or heading is not in the repository."""
    anchors = {page.resolve(): set(heading_ids(parser().parse(page.read_text()))) for page in pages}
    return [
        f"{page.relative_to(root)}: {link} leads nowhere"
        for page in pages
        for link in _markdown_links(parser().parse(page.read_text()))
        if not _leads_somewhere(root, page, link, anchors)
    ]


def broken_in_site(output: Path) -> list[str]:
    """The same for finished pages, and what they would need a network to show."""
    read = {page.resolve(): _Page(page) for page in sorted(output.rglob("*.html"))}
    anchors = {page: found.ids for page, found in read.items()}
    lines = []
    for page, found in read.items():
        name = page.relative_to(output.resolve())
        lines += [f"{name}: {link} needs a network" for link in found.fetched if _is_elsewhere(link)]
        links = [*found.links, *found.fetched]
        lines += [f"{name}: {x} leads nowhere" for x in links if not _leads_somewhere(output, page, x, anchors)]
    return lines


def heading_ids(tokens: list[Token]) -> Iterator[str]:
    """What a heading is linked by: its words in small letters, joined by dashes; a second one of the same words gets a number."""
    seen: Counter[str] = Counter()
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            words = "".join(part.content for part in token.children or [])
            name = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
            yield f"{name}-{seen[name]}" if seen[name] else name
            seen[name] += 1


def _markdown_links(tokens: list[Token]) -> Iterator[str]:
    for token in tokens:
        for name in ("href", "src"):
            if name in token.attrs:
                yield str(token.attrs[name])
        yield from _markdown_links(token.children or [])


def _leads_somewhere(root: Path, page: Path, link: str, anchors: dict[Path, set[str]]) -> bool:
    if _is_elsewhere(link) or link.startswith(("mailto:", "data:", "javascript:")):
        return True
    path, fragment = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
    target = (page.parent / path).resolve() if path else page.resolve()
    if not target.exists() or not target.is_relative_to(root.resolve()):
        return False
    return not fragment or target not in anchors or fragment in anchors[target]


def _is_elsewhere(link: str) -> bool:
    return link.startswith(("http://", "https://", "//"))


class _Page(HTMLParser):
    """What a page links to, what it fetches to be shown, and what can be linked in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.ids.add(values.get("id", ""))
        link = values.get(_LINKS.get(tag, ""))
        if link is not None:
            (self.links if tag in ("a", "area") else self.fetched).append(link)
