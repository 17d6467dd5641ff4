"""Links of the Markdown files lead somewhere, and what looks for broken ones finds them."""

from pathlib import Path

import pytest

from pages.links import broken_in_markdown, broken_in_site, markdown_files
from pages.markdown_pages import write_site

ROOT = Path(__file__).parents[2]


def test_every_link_of_the_markdown_files_leads_somewhere() -> None:
    files = markdown_files(ROOT)
    assert {"README.md", "SECURITY.md", "CHANGELOG.md", "operations.md"} <= {path.name for path in files}
    assert broken_in_markdown(ROOT, files) == []


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    linked = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md")) + readme
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"{path.name})" not in linked] == []


def test_the_pages_of_the_markdown_files_have_no_broken_link_and_need_no_network(tmp_path: Path) -> None:
    write_site(ROOT, markdown_files(ROOT), tmp_path)
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "index.html").touch()
    assert broken_in_site(tmp_path) == []
    assert (tmp_path / "docs" / "operations.html").exists()
    assert '<h2 id="what-is-open">' in (tmp_path / "docs" / "operations.html").read_text()


@pytest.mark.parametrize(
    "link",
    ["missing.md", "other.md#missing", "#missing", "../outside.md", "folder/", "![picture](missing.png)"],
)
def test_a_link_that_leads_nowhere_is_named(link: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.md").touch()
    (root / "other.md").write_text("# Other\n")
    page = root / "README.md"
    page.write_text(link if link.startswith("!") else f"# Words: of it\n\n[text]({link}) [text](#words-of-it)\n")
    (line,) = broken_in_markdown(root, markdown_files(root))
    assert line.startswith("README.md: ")
    assert line.endswith(" leads nowhere")


def test_what_pages_link_to_and_what_they_fetch_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.html").write_text('<p id="there">')
    (tmp_path / "a.html").write_text(
        '<script src="https://host/x.js"></script><img src="missing.png"><a href="folder/b.html#there">'
        '<a href="folder/b.html#elsewhere"><a href="https://host">'
    )
    assert sorted(broken_in_site(tmp_path)) == [
        "a.html: folder/b.html#elsewhere leads nowhere",
        "a.html: https://host/x.js needs a network",
        "a.html: missing.png leads nowhere",
    ]
