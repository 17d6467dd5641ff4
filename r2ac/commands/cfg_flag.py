"""``--cfg job`` prints the composed configuration and does nothing else, as Hydra's flag of that name does."""

from collections.abc import Sequence

from conf.knobs import ConfigError
from conf.words import take_flag


def take_cfg(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether the flag is there, and the other words.

    Raises:
        ConfigError: for Hydra's other kinds of configuration, which are not the user's.
    """
    kind, others = take_flag(words, "--cfg", "-c")
    if kind not in (None, "job"):
        raise ConfigError(f"--cfg={kind}: only --cfg job is known, which prints the configuration of the run")
    return kind is not None, others
