"""Names and folders as people type them."""

import os

from conf.knobs import ConfigError

LONGEST = 255
"""Bytes of a folder's name on every usual file system."""


def check_run_name(name: str) -> None:
    """Raises ``ConfigError`` for a name that is not that of one folder inside ``runs/``, or that a shell would take for an option."""
    if (
        not name.strip()
        or name != os.path.basename(name)
        or name.startswith((".", "-"))
        or len(name.encode()) > LONGEST
    ):
        raise ConfigError(
            f"name must be that of one folder inside runs/, without / and not beginning with . or -, at most {LONGEST} bytes, "
            f"got {name[:80]!r}; a folder elsewhere is run_dir=PATH"
        )


def with_home(option: str, value: str) -> str:
    """``~/x`` and ``~user/x`` as the folders that they mean, where a shell has left them as they are (in quotes, or behind ``=``).

    Raises:
        ConfigError: if there is no such user.
    """
    if not value.startswith("~"):
        return value
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        raise ConfigError(
            f"{option}={value}: there is no user {value[1:].partition('/')[0]!r} here; write the folder in full"
        )
    return expanded
