"""YAML as nothing but data: bounded in size and depth, without aliases, so that reading costs no more than the text is long."""

from typing import Any

import yaml
from yaml.composer import ComposerError

from conf.knobs import ConfigError

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 50


class _Bounded:
    """Refuses what a configuration has no use for: an alias can stand for billions of nodes, a tag asks for a type."""

    _depth = 0

    def compose_node(self: Any, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise ComposerError(None, None, "aliases are not allowed", event.start_mark)
        if event.tag is not None:
            raise ComposerError(None, None, "tags are not allowed", event.start_mark)
        if self._depth >= MAX_DEPTH:
            raise ComposerError(None, None, f"more than {MAX_DEPTH} levels", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            self._depth -= 1


class _Loader(_Bounded, yaml.SafeLoader):
    """Numbers and texts as they look."""


class _Texts(_Bounded, yaml.BaseLoader):
    """Every value as the text that it is."""


def read_yaml(text: str, what: str, *, as_texts: bool = False) -> Any:
    """Numbers, texts, lists and dictionaries. ``what`` it is, is said first if it cannot be read.

    Args:
        as_texts: numbers as they are written: to YAML the time ``24:00:00`` is one.

    Raises:
        ConfigError: if it is not YAML, too long or too deep; one line.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{what} cannot be read: {len(text):,} characters, at most {MAX_CHARACTERS:,} are expected")
    try:
        return yaml.load(text, Loader=_Texts if as_texts else _Loader)  # both make nothing but data
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{what} cannot be read: {error.problem or error.context}{where}") from None
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        # Dates and numbers that are none, and characters that YAML does not have.
        raise ConfigError(
            f"{what} cannot be read: {str(error).splitlines()[0] if str(error) else 'not YAML'}"
        ) from None
