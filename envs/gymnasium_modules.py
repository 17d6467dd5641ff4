"""From ``[module:]id`` to an id that gymnasium knows: the only place where a name makes this program import somebody's module."""

import difflib
import importlib
import os
import sys

import gymnasium

from envs.base import MissingDependency, UnknownEnvironment
from envs.gymnasium_edge import words


def registered(name: str) -> str:
    """The id of ``[module:]id``, once its module, which may lie in the current folder, has been imported and has registered it.

    Raises:
        MissingDependency: if there is no such module.
        UnknownEnvironment: if the module cannot be imported, or there is no such id; names the nearest ones.
    """
    module, _, name_within = name.rpartition(":")
    if name.startswith("ALE/"):
        module = "ale_py"
    if module:
        _import(module, name)
    if name_within in gymnasium.registry:
        return name_within
    close = difflib.get_close_matches(name_within, list(gymnasium.registry), n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else "gymnasium.pprint_registry() lists them; write env=gym/MODULE:ID for one that a module of yours registers"
    )
    raise UnknownEnvironment(f"gymnasium has no environment {name_within!r}: {hint}")


def _import(module: str, name: str) -> None:
    here = os.getcwd()
    if here not in sys.path:  # as for `python -m`; an installed program does not look there
        sys.path.append(here)
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(f"env=gym/{name} needs the Python module {module}: {error}") from None
    except (Exception, SystemExit) as error:
        raise UnknownEnvironment(f"env=gym/{name}: the module {module} cannot be imported: {words(error)}") from None
