"""Places: paths, addresses and modules that a configuration names, and how they are shown without the secrets that are in them."""

import re
from typing import Any

SECRET = "***"
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#@]*(?:@[^\s/?#@]*)*@")
"""``user:password@`` of a URL. A password may hold an @ that was not escaped: everything up to the last one goes."""
_PASSWORD = re.compile(r"://[^\s/?#]*:[^\s/?#]+@")
_INTERPOLATION = re.compile(r"\$\{[^{}]*\}")
_QUERY = re.compile(r"(?P<start>\b[a-z][a-z0-9+.-]*://[^\s?#'\"]*\?)[^\s#'\"]+", re.IGNORECASE)
"""A URL's parameters: signatures and tokens of presigned addresses."""
_SHORTEST = 6
"""Characters of an interpolated value that is looked for in messages; a shorter one would be found everywhere."""
_typed: dict[str, str] = {}


class Interpolated(str):
    """A text into which something was interpolated, such as ``${oc.env:KEY}``: used as it is, shown and stored as it was typed."""

    typed: str

    def __new__(cls, value: str, typed: str | None = None) -> "Interpolated":
        new = super().__new__(cls, value)
        new.typed = value if typed is None else typed
        if len(value) >= _SHORTEST and value != new.typed:
            _typed[value] = new.typed
        return new


def shown(value: Any) -> Any:
    """What may be stored or shown of an option's value, through lists and dictionaries."""
    if isinstance(value, Interpolated):
        return redacted(value.typed)
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: shown(element) for key, element in value.items()}
    return [shown(element) for element in value] if isinstance(value, list) else value


def redacted(text: str) -> str:
    """A message without the passwords of its URLs, and without what this process has interpolated into places."""
    for value, typed in _typed.items():
        text = text.replace(value, typed)
    return _QUERY.sub(rf"\g<start>{SECRET}", _CREDENTIALS.sub(f"{SECRET}@", text))


def holds_password(text: str) -> bool:
    """Whether a URL in it has a password."""
    return _PASSWORD.search(_INTERPOLATION.sub("", text)) is not None


def imports_module(name: str) -> bool:
    """Whether an id is ``module:Id``, whose making imports the module."""
    return ":" in name


def leaves_folder(names: str | list[str]) -> bool:
    """Whether a level's path could lead out of its engine's folder."""
    each = [names] if isinstance(names, str) else names
    return any(name.startswith(("/", "~", "\\")) or ".." in name or ":" in name for name in each)


def holds_text(value: Any) -> bool:
    """Whether there is any text inside: in somebody else's arguments it may be a path."""
    if isinstance(value, dict):
        return any(holds_text(element) for element in value.values())
    return any(holds_text(element) for element in value) if isinstance(value, list) else isinstance(value, str)
