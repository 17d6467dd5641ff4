"""The words of a command line: how each is taken apart, and what is said of one that cannot be used. Every program reads them so."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.knobs import ConfigError

T = TypeVar("T")
_IN_FILE = "raised while composing config:"
"""How Hydra ends the line that names the file, before the one that says what is wrong in it."""


def split_word(word: str, program: str = "") -> tuple[str, str]:
    """``option=value`` as its two halves. The program's name is for the hint about its ``--help``.

    Raises:
        ConfigError: for anything else.
    """
    key, separator, value = word.partition("=")
    if not separator:
        hint = f"; {program} --help lists the options" if program else ""
        raise ConfigError(f"expected option=value, got {word!r}{hint}")
    return key, value


def take_flag(words: Sequence[str], *names: str) -> tuple[str | None, list[str]]:
    """The value of ``--flag VALUE`` or ``--flag=VALUE``, and the other words.

    Raises:
        ConfigError: if it has no value, or is there twice.
    """
    values, others, rest = [], [], iter(words)
    for word in rest:
        name, separator, value = word.partition("=")
        if name not in names:
            others.append(word)
            continue
        values.append(value if separator else next(rest, ""))
        if not values[-1]:
            raise ConfigError(f"{names[0]} needs a value: {names[0]} VALUE")
    if len(values) > 1:
        raise ConfigError(f"{names[0]} is given {len(values)} times: {', '.join(values)}; give one")
    return (values[0] if values else None), others


def build(schema: type[T] | T, values: Mapping[str, Any], prefix: str = "") -> T:
    """A dataclass of knobs from values of its options. ``prefix`` stands before an option in what is said of it.

    Raises:
        ConfigError: for a wrong type, or a required option that is not given.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))  # pyright: ignore[reportReturnType]
    except OmegaConfBaseException as error:
        raise ConfigError(sentence(error, prefix)) from None


def quoted(value: str) -> str:
    """A text as Hydra's grammar takes it, whatever is in it; one that the user has quoted stays as it is."""
    if value == "null" or value[:1] in "'\"":
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def text_or_none(value: Any) -> Any:
    return None if value == "null" else value


def sentence(error: BaseException, prefix: str = "") -> str:
    """The sentence of an error that says what is wrong, and which option it is about."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None and not lines[0].startswith(("Key", "Value", "Missing")):
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or lines
    option = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), None)
    said = lines[0] if lines else type(error).__name__
    if said.endswith(_IN_FILE) and len(lines) > 1:  # "In 'env/maze': ConfigKeyError raised while composing config:"
        said = f"{said.partition(': ')[0]}: {lines[1]}"
    return f"{prefix}{option}: {said}" if option and option not in said else said
