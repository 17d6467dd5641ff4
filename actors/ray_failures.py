"""What a failed call on Ray means for a run: the process behind it is gone, what it was given is gone, or there is a bug."""

import re

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

DEATHS = (OutOfMemoryError, RayActorError, NodeDiedError, WorkerCrashedError, RuntimeEnvSetupError)
"""What a call raises if the process behind it is gone, or could not start."""


def cause_of_death(failure: RayError) -> str | None:
    """Why the process that was called is gone, in a few words; ``None`` if it is not, or if a bug ended it."""
    if isinstance(failure, OutOfMemoryError):  # its text is pages of statistics
        return "Ray ended its process because the memory of its machine was nearly used up"
    if isinstance(failure, RayActorError) and failure.actor_init_failed:
        return cause_of_failed_start(failure)
    if isinstance(failure, DEATHS):
        return f"its process died ({_lines(failure)[0]})"
    return None


def cause_of_failed_start(failure: RayError) -> str:
    """One line: the exception that was raised in the process, or what ended it."""
    if isinstance(failure, OutOfMemoryError):
        return str(cause_of_death(failure))
    return re.sub(r"^(\w+\.)+\w+: ", "", _lines(failure)[-1])


def said(failure: Exception) -> str:
    """The words of an exception that was raised in another process: Ray puts a traceback before them."""
    return str(failure.cause) if isinstance(failure, RayTaskError) else str(failure)


def is_lost_object(failure: RayError) -> bool:
    """Whether a call failed because what it was given was in the memory of a machine that is gone."""
    return isinstance(failure, ObjectLostError) or (
        isinstance(failure, RayTaskError) and isinstance(failure.cause, ObjectLostError)
    )


def _lines(failure: RayError) -> list[str]:
    return [line.strip() for line in str(failure).splitlines() if line.strip()] or [type(failure).__name__]
