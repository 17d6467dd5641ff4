"""``python -m pages``: writes build/docs, and ends with status 1 if a link in it leads nowhere."""

import shutil
import sys
from pathlib import Path

from pages.api import write_api
from pages.links import broken_in_markdown, broken_in_site, markdown_files
from pages.markdown_pages import write_site

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build" / "docs"


def main() -> int:
    pages = markdown_files(ROOT)
    broken = broken_in_markdown(ROOT, pages)
    if not broken:
        shutil.rmtree(OUTPUT, ignore_errors=True)
        write_api(OUTPUT / "api")
        write_site(ROOT, pages, OUTPUT)
        broken = broken_in_site(OUTPUT)
    for line in broken:
        print(f"error: {line}", file=sys.stderr)
    if not broken:
        print(f"{(OUTPUT / 'index.html').relative_to(ROOT)} is the first page")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
