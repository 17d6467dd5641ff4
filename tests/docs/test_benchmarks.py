"""The figures that the pages show are those of the last ``make bench``."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.report import write_docs

ROOT = Path(__file__).parents[2]


def test_the_pages_show_the_results(tmp_path: Path) -> None:
    changed = ["git", "diff", "--quiet", "HEAD", "--", "benchmarks/results/latest.json"]
    if shutil.which("git") and subprocess.run(changed, cwd=ROOT, check=False, capture_output=True).returncode == 1:
        pytest.skip("measured anew on this machine: python -m benchmarks docs writes it into the pages")
    pages = (ROOT / "docs" / "benchmarks.md", ROOT / "README.md", ROOT / "docs" / "shipping.md")
    written = [Path(shutil.copy(page, tmp_path)) for page in pages]
    write_docs(ROOT / "benchmarks" / "results" / "latest.json", *written)
    assert [page.read_text() for page in written] == [page.read_text() for page in pages]
