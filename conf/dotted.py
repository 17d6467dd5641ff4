"""Parts of a user's own, ``module:Name`` on the command line: imported from wherever Python finds them, or the present folder."""

import os
import sys
from importlib import import_module
from typing import Any

from conf.knobs import ConfigError
from conf.one_line import one_line


def is_dotted(name: str) -> bool:
    """Whether a name is ``module:Name``, whose making imports the module, and not one of ours."""
    return ":" in name


def import_dotted(option: str, name: str) -> Any:
    """What ``module:Name`` names. Only for what a user has typed: see ``conf/stored.py`` for what is read from files.

    Args:
        option: which option names it, for the message.

    Raises:
        ConfigError: if there is no such module, it cannot be imported, or it has no such name.
    """
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # the last, so that a file of this folder takes no library's place
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigError(f"{option}={name}: {module_name} cannot be imported: {one_line(error, 300)}") from error
        raise ConfigError(
            f"{option}={name}: there is no module {module_name} here: start in the folder that holds it, or install it"
        ) from None
    except Exception as error:  # whatever somebody else's module raises
        raise ConfigError(
            f"{option}={name}: {module_name} cannot be imported: {type(error).__name__}: {one_line(error, 300)}"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ConfigError(f"{option}={name}: module {module_name} has no {attribute!r}") from None
