"""The ``deepmind_lab`` module and what it needs beside itself: what is missing here, and how to get it."""

import importlib.util
import shutil

BUILD = "build its wheel as python/pip_package of github.com/google-deepmind/lab says, and install that"
UNDECLARED = {"dm_env": "dm-env", "pkg_resources": "'setuptools<81'"}
"""Modules that the wheel imports and does not declare, and what to install for each."""


def is_installed() -> bool:
    return importlib.util.find_spec("deepmind_lab") is not None


def why_not_imported(error: ImportError) -> str:
    """One sentence for a user. The module is there: if it cannot be imported, that is no level's fault."""
    if error.name == "imp":
        return "the deepmind_lab module imports imp, which Python 3.12 has no more: use Python 3.11 (docs/dmlab.md)"
    missing = [name for name in UNDECLARED if importlib.util.find_spec(name) is None]
    if error.name in missing:
        packages = " ".join(UNDECLARED[name] for name in missing)
        return (
            f"the deepmind_lab module imports {' and '.join(missing)}, which its wheel does not declare: "
            f"pip install {packages}"
        )
    return f"the deepmind_lab module is installed but cannot be imported: {error} (docs/dmlab.md)"


def has_zip() -> bool:
    """Whether the program is there with which the engine packs the maps that it builds; its own error does not name it."""
    return shutil.which("zip") is not None
