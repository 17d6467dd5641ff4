"""From words with several values, in the grammar of Hydra's multirun, to the words of each combination.

seed=1,2,3                            each of these
actors.unroll=range(10,40,10)         10, 20, 30
experiment=glob(atari_*_rtrl)         the files of a group
learner.adam_betas=[0.9,0.99],[0,0]   two lists; a list by itself is one value
logging.wandb_project=a,b             one text, as all paths, addresses and destinations; several are choice(a,b)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.errors import HydraException

from conf.folder import FLAG, Folder, take_folder
from conf.knobs import ConfigError
from conf.load import GROUPS
from conf.options import destinations, free_text
from conf.schema import TrainConfig
from conf.words import sentence, split_word

MOST = 10_000
"""Combinations: more are a slip, and would take an hour to check."""


@dataclass(frozen=True, slots=True)
class Combination:
    """One run of a sweep."""

    words: tuple[str, ...]
    """Of the training, in the order in which they were typed."""
    swept: tuple[tuple[str, str], ...]
    """The options that have several values in the sweep, with those of this run; by name, the seed last."""


def combinations(words: Sequence[str]) -> list[Combination]:
    """Every combination once, the last word's values varying fastest.

    Raises:
        ConfigError: for an option that is given twice, values that have no end or no beginning, and too many combinations.
    """
    folder, _ = take_folder(words)
    options: dict[str, list[str]] = {}
    for word in words:
        key, value = split_word(word, "rtrl-train")
        if key in options:
            raise ConfigError(f"{key} is given twice: write its values with commas between them")
        options[key] = [value] if key == FLAG else _values(key, value, folder)
    if (number := prod(len(values) for values in options.values())) > MOST:
        raise ConfigError(f"{number:,} combinations, at most {MOST:,} are expected: sweep in several parts")
    several = sorted((key for key, values in options.items() if len(values) > 1), key=lambda key: (key == "seed", key))
    found = []
    for values in product(*options.values()):
        chosen = dict(zip(options, values, strict=True))
        of_run = tuple(f"{key}={value}" for key, value in chosen.items())
        found.append(Combination(of_run, tuple((key, chosen[key]) for key in several)))
    return found


def _values(key: str, value: str, folder: Folder) -> list[str]:
    """Of an option. What Hydra's grammar cannot read is one value: whoever loads it says what is wrong."""
    if key in destinations() and not value.startswith("choice("):
        return [value]
    try:
        (override,) = _parser().parse_overrides([f"{key}={value}"])
    except HydraException as error:
        if value.startswith("choice("):
            raise ConfigError(f"cannot read {f'{key}={value}'!r}: {sentence(error)}") from None
        return [value]
    if not override.is_sweep_override():
        return [value]
    if override.is_interval_sweep():
        raise ConfigError(f"{key}={value} has no end of values: expected a,b or range(start,stop,step) or choice(a,b)")
    several = override.value()
    if isinstance(several, Glob):
        if key not in GROUPS:
            raise ConfigError(f"{key}={value}: glob() is for the files of {', '.join(GROUPS)}; list the values")
        values = several.filter(folder.all_files(key))
    else:
        values = [_text(element, key) for element in override.sweep_iterator()]
    if not values:
        raise ConfigError(f"{key}={value} has no values")
    return list(dict.fromkeys(values))


def _text(element: object, key: str) -> str:
    """As it could have been typed by itself: for us without its quotes, for Hydra with them, or escaped where that is needed."""
    text = element.text if isinstance(element, QuotedString) else element
    if isinstance(text, str) and (key in GROUPS or key in free_text(TrainConfig)):
        return text
    if isinstance(element, str) and _is_read_as(element, key):
        return element
    return Override._get_value_element_as_str(element)  # pyright: ignore[reportArgumentType]


def _is_read_as(text: str, key: str) -> bool:
    try:
        (override,) = _parser().parse_overrides([f"{key}={text}"])
    except HydraException:
        return False
    return not override.is_sweep_override() and override.value() == text


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
