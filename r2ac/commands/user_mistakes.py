"""A user's mistake is one line and an exit status, never a traceback. Every entry point ends here."""

import os
import sys
from collections.abc import Callable

from actors.fleet import FleetError
from conf.knobs import ConfigError
from envs.base import EnvironmentFailure, MissingDependency, UnknownEnvironment
from r2ac.commands.error_line import print_error
from r2ac.persistence.checkpoint import CheckpointError
from r2ac.persistence.run_folder import RunFolderError
from r2ac.training.refusals import NoProgress

ONE_LINE = (
    ConfigError,
    UnknownEnvironment,
    MissingDependency,
    EnvironmentFailure,
    CheckpointError,
    FleetError,
    RunFolderError,
    NoProgress,
)
"""Errors whose message says it all."""


def reported(run: Callable[[], int]) -> int:
    """Exit status of ``run``: 2 for a mistake in what was asked for, 1 for a machine that cannot do it, 130 if interrupted."""
    status = _status(run)
    try:
        sys.stdout.flush()
    except OSError:  # or the interpreter would complain of it at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def printed(text: str | Callable[[], str]) -> int:
    """Exit status of a program that only prints this, or what this makes of the user's words."""

    def show() -> int:
        print(text() if callable(text) else text)
        return 0

    return reported(show)


def _status(run: Callable[[], int]) -> int:
    try:
        return run()
    except ONE_LINE as error:
        print_error(error)
        return 2
    except BrokenPipeError:  # whoever read what is printed has gone, as in "| head"
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        print_error(error)
        return 1
    except KeyboardInterrupt:
        return 130
