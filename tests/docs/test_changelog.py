"""The changelog knows the version that pyproject.toml names, and nothing else names one."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
HEADINGS = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_version_has_an_entry() -> None:
    assert HEADINGS[0] == "Unreleased"
    assert HEADINGS[1].split(" - ")[0] == VERSION


def test_entries_are_dated_and_go_back_in_time() -> None:
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", heading) for heading in HEADINGS[1:])
    versions = [[int(number) for number in heading.split(" - ")[0].split(".")] for heading in HEADINGS[1:]]
    assert versions == sorted(versions, reverse=True)


def test_the_version_is_written_in_one_place() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert not [path for path in files if re.search(r"__version__ *=", path.read_text())]
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
