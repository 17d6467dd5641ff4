"""The API from the docstrings, by pdoc: their indented examples, ``Args:`` and shapes in signatures come out as they were written."""

import pkgutil
import tomllib
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pdoc.render
from pdoc.doc import Class, Function, Module, Namespace

HERE = Path(__file__).parent
_SHOWN_ALL_THE_SAME = ("Error parsing type annotation memoryview", "Cannot determine where rtrl_core.shapes.Tensor")
"""What pdoc warns about and shows: a quoted annotation that Python does not evaluate, and a member of torch's that has no page here."""


def write_api(output: Path) -> None:
    """Writes a page for each module, an index and a search.

    Raises:
        ImportError: for a module that cannot be imported.
    """
    pdoc.render.configure(docformat="google", show_source=False, template_directory=HERE / "templates")
    found = {name: Module(import_module(name)) for name in module_names()}
    warnings.simplefilter("error")  # from here on it is pdoc that warns: of something that will not be in the pages
    for known in _SHOWN_ALL_THE_SAME:
        warnings.filterwarnings("ignore", known)
    for name, module in found.items():
        _leave_out_words_of_others(module)
        page = output / f"{name.replace('.', '/')}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(pdoc.render.html_module(module, found))
    (output / "index.html").write_text(pdoc.render.html_index(found))
    (output / "search.js").write_text(pdoc.render.search_index(found))


def module_names() -> Iterator[str]:
    """Every public module that the wheel holds; pdoc itself would leave out those of a package that has ``__all__``."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        yield package
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if not any(part.startswith("_") for part in module.name.split(".")):
                yield module.name


def _leave_out_words_of_others(documented: Namespace[Any]) -> None:
    """A class or method without a docstring has none: pdoc would show what torch says about the one that it replaces."""
    for member in documented.own_members:
        if isinstance(member, Function) and not member.obj.__doc__:
            member.docstring = ""
        if isinstance(member, Class):
            member.docstring = member.docstring if vars(member.obj).get("__doc__") else ""
            _leave_out_words_of_others(member)
