"""Markdown files as pages, in the folders where they lie in the repository: relative links hold but for the ending."""

import html
import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from markdown_it.token import Token

from pages.links import heading_ids, parser

_STYLE = """body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem; }
nav { border-bottom: 1px solid #8886; padding-bottom: .5rem; } nav a { margin-right: 1rem; white-space: nowrap; }
pre { background: #8882; overflow-x: auto; padding: .7rem; } code { font-size: .9em; } img { max-width: 100%; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { border: 1px solid #8886; padding: .3rem .6rem; text-align: left; }
:root { color-scheme: light dark; }"""


def write_site(root: Path, sources: list[Path], output: Path) -> None:
    """Writes a page per source, and copies what they link to of the repository beside them.

    Args:
        sources: Markdown files below ``root``, in the order of the menu; README.md becomes index.html.
    """
    addresses = {source.resolve(): output / _page_name(source.relative_to(root)) for source in sources}
    titles = {source.resolve(): _title(source) for source in sources}
    for source in sources:
        page = addresses[source.resolve()]
        page.parent.mkdir(parents=True, exist_ok=True)
        menu = [(titles[known], address) for known, address in addresses.items()]
        links = "".join(
            f'<a href="{_relative(address, page)}">{html.escape(title)}</a> '
            for title, address in [*menu, ("API", output / "api" / "index.html")]
        )
        title = html.escape(titles[source.resolve()])
        page.write_text(
            f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{_STYLE}</style></head>\n<body><nav>{links}</nav>\n<main>{_body(root, source, page, addresses, output)}</main>"
            "</body>\n</html>\n"
        )


def _body(root: Path, source: Path, page: Path, addresses: dict[Path, Path], output: Path) -> str:
    markdown = parser()
    tokens = markdown.parse(source.read_text())
    for token, name in zip((t for t in tokens if t.type == "heading_open"), heading_ids(tokens), strict=True):
        token.attrSet("id", name)
    for token in _all(tokens):
        for attribute in ("href", "src"):
            link = urlsplit(str(token.attrs.get(attribute, "")))
            if not link.path or link.scheme or link.netloc:
                continue
            target = (source.parent / unquote(link.path)).resolve()
            if target in addresses:
                path = _relative(addresses[target], page)
                token.attrSet(attribute, urlunsplit(("", "", path, "", link.fragment)))
            elif target.is_file():
                copy = output / target.relative_to(root.resolve())
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(target, copy)
    return markdown.renderer.render(tokens, markdown.options, {})


def _all(tokens: list[Token]) -> list[Token]:
    return [found for token in tokens for found in (token, *_all(token.children or []))]


def _page_name(path: Path) -> Path:
    return path.with_name("index.html") if path.name == "README.md" else path.with_suffix(".html")


def _title(source: Path) -> str:
    """The first heading, as far as a colon: ``r2ac: recurrent agents ...`` is called r2ac."""
    return next(line for line in source.read_text().splitlines() if line.startswith("# "))[2:].partition(":")[0]


def _relative(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target, page.parent)).as_posix()
