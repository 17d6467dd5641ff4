"""From what a user types to a checked, typed configuration. ``DictConfig`` never leaves this file.

env=SUITE/NAME       any game, level or id of a suite, without a file of its own; the rest of the line works as in Hydra:
rule=tbptt           a file of a group under conf/
actors.unroll=50     one option
"""

import hashlib
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.data_yaml import read_yaml
from conf.env_schema import ENV_CONFIGS, EnvConfig
from conf.env_words import env_of, texts_of, translate_env
from conf.folder import Folder, take_folder
from conf.knobs import PLACE, ConfigError, validate
from conf.names import check_run_name, with_home
from conf.options import free_text, is_dict_option, options, sections_with_name
from conf.places import Interpolated, shown
from conf.schema import EvaluateConfig, TrainConfig
from conf.spelling import unknown
from conf.words import build, quoted, sentence, split_word, text_or_none

T = TypeVar("T")

GROUPS = ("env", "network", "rule", "algorithm", "learner", "fleet", "logging", "experiment")
NOT_LEARNING = ("name", "run_dir", "resume", "logging", "seed", "fleet")
"""What does not change what is learned: left out of ``config_hash``."""
SET_ASIDE = {"num_cpus": 1.0, "num_gpus": 0.0}
"""For an actor, by Ray: nothing is learned otherwise with more. Hashed as if nothing had been said of it."""
ADDED: dict[str, Any] = {
    "network.core_options": {},
    "network.encoder_options": {},
    "network.critic": "shared",
    "network.normalise_outputs": False,
    "network.normalise_observations": False,
    "network.scale_rewards": False,
    "network.standardise_steps": 0,
    "network.layers": 1,
    "network.heads": "policy",
    "network.head_sizes": [],
    "rule.options": {},
    "rule.across_layers": "local",
    "rule.refresh": 0,
    "rule.refresh_every": 4,
    "loss.clip_ratio": None,
    "learner.target_lag": 8.0,
    "learner.warmup_updates": 0,
    "actors.pipeline": 1,
    "actors.cuda_graphs": "auto",
    "actors.fidelity_every": 200,
    "actors.fidelity_steps": 500,
    "algorithm": {"name": "r2ac", "options": {}},
}
"""What version 0.1.0 did not have and meant by not having it."""
ADDED_TO_ENV: dict[str, dict[str, Any]] = {"atari": {"threads": 1}}
"""The same, of the options of a suite."""
_lock = threading.Lock()


def load_train(overrides: Sequence[str]) -> TrainConfig:
    """A training configuration from command-line words.

    A run of an environment that the experiment did not name is named after it: ``env=atari/pong`` trains in ``runs/atari_pong``.

    Raises:
        ConfigError: for anything that cannot work; one line.
    """
    folder, given_words = take_folder(overrides)
    env = env_of(given_words, folder)
    words = [word for override in given_words for word in _translate(override, folder, env)]
    given = {override.partition("=")[0]: override.partition("=")[2] for override in given_words}
    own_env = given["env"] if given.get("env") in folder.files("env") else None
    with _hydra():
        tree = _composed(words, folder, own_env)
        config = OmegaConf.to_object(tree)
        _keep_typed(tree, config)
    assert isinstance(config, TrainConfig)
    if any(map(_is_kwargs, given)) and "kwargs" not in [option.name for option in fields(config.env)]:
        raise ConfigError(f"unknown option 'env.kwargs': env={config.env.suite} takes none, env=gym/ID does")
    experiment = given.get("experiment")
    if "env" in given and "name" not in given:
        config.name = _run_name(experiment, own_env, config)
    elif experiment is not None and config.name == TrainConfig.name:  # its file says none
        config.name = experiment
    check_run_name(config.name)
    return _checked(config)


@contextmanager
def _hydra() -> Iterator[None]:
    """Inside, Hydra composes from our files; what goes wrong is one line."""
    _register_schema()
    with _lock:
        try:
            GlobalHydra.instance().clear()
            with initialize_config_module(config_module="conf", version_base="1.3"):
                yield
        except OverrideParseException as error:
            raise ConfigError(f"cannot read {error.override!r}: {sentence(error)}") from None
        except (HydraException, OmegaConfBaseException) as error:
            said = sentence(error)
            hint = "; rtrl-sweep trains with each of several values" if said.startswith("Ambiguous value") else ""
            raise ConfigError(said + hint) from None
        finally:
            GlobalHydra.instance().clear()


def _composed(words: Sequence[str], folder: Folder, own_env: str | None) -> Any:
    """The tree of all words. An environment's file that the user names stands for the whole section, with what is typed of it: as
    with ``env=SUITE/NAME``, what an experiment says of its own environment must not win over it."""
    if own_env is None:
        return compose(config_name="train", overrides=[*folder.words(), *words])
    of_env = [word for word in words if word.lstrip("+").startswith("env.")]
    section = compose(config_name=None, overrides=[*folder.words(), f"+env={own_env}", *of_env]).get("env")
    kind = OmegaConf.get_type(section)
    if not (isinstance(kind, type) and issubclass(kind, EnvConfig)):
        raise ConfigError(
            f"{folder.file('env', own_env)} does not say what it is about: begin with suite: NAME, "
            f"one of {', '.join(ENV_CONFIGS)}"
        )
    others = [word for word in words if word not in of_env and word != f"env={own_env}"]
    tree = compose(config_name="train", overrides=[*folder.words(), *others, f"env={section.suite}"])
    tree.env = section
    return tree


def _keep_typed(tree: Any, section: Any) -> None:
    """Remembers how the places of a configuration were typed, where something was interpolated into them."""
    for spec in fields(section):
        node, value = tree._get_node(spec.name), getattr(section, spec.name)
        if is_dataclass(value):
            _keep_typed(node, value)
        elif spec.metadata.get(PLACE) is True and isinstance(value, str) and node._is_interpolation():
            setattr(section, spec.name, Interpolated(value, node._value()))
        elif isinstance(value, dict) and not node._is_interpolation():
            setattr(section, spec.name, _with_typed(value, node))


def _with_typed(value: Any, node: Any) -> Any:
    if isinstance(value, str) and node._is_interpolation():
        return Interpolated(value, node._value())
    if node._is_interpolation():
        return value
    if isinstance(value, dict):
        return {key: _with_typed(element, node._get_node(key)) for key, element in value.items()}
    if isinstance(value, list):
        return [_with_typed(element, node._get_node(index)) for index, element in enumerate(value)]
    return value


def _run_name(experiment: str | None, own_env: str | None, config: TrainConfig) -> str:
    env = config.env.suite if config.env.name == config.env.suite else f"{config.env.suite}_{config.env.name}"
    env = own_env or env
    return re.sub(r"[^\w.-]+", "_", env if experiment is None else f"{experiment}_{env}")


def load_evaluate(overrides: Sequence[str]) -> EvaluateConfig:
    """An evaluation's configuration from words ``option=value``; see ``load_train``."""
    return load_options(EvaluateConfig, overrides)


def load_options(schema: type[T], overrides: Sequence[str]) -> T:
    """Any flat dataclass of knobs from words ``option=value``.

    Raises:
        ConfigError: for an unknown option, a wrong type, or a required option that is not given.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        key, value = split_word(override)
        if key not in options(schema):
            raise ConfigError(unknown("option", key, options(schema)))
        values[key] = text_or_none(with_home(key, value)) if key in free_text(schema) else read_yaml(value, key)
    config = build(schema, values)
    validate(config)
    return config


def to_yaml(config: TrainConfig) -> str:
    """Everything, defaults included: what a run folder and a checkpoint keep. Without secrets: see ``conf/places.py``."""
    return yaml.safe_dump(_shown_tree(config), sort_keys=False, allow_unicode=True)


def config_hash(config: TrainConfig) -> str:
    """Equal for runs that should learn the same up to their seed: where and how they ran does not count."""
    kept = {key: value for key, value in _shown_tree(config).items() if key not in NOT_LEARNING}
    kept["actors"] |= SET_ASIDE
    of_suite = {f"env.{name}": value for name, value in ADDED_TO_ENV.get(config.env.suite, {}).items()}
    for option, value in (ADDED | of_suite).items():  # or runs of an earlier version would be other experiments
        section, _, name = option.partition(".")
        if name and kept[section].get(name) == value:
            del kept[section][name]
        elif not name and kept[section] == value:
            del kept[section]
    return hashlib.sha256(yaml.safe_dump(kept, sort_keys=True).encode()).hexdigest()[:12]


def _shown_tree(section: Any) -> dict[str, Any]:
    return {
        spec.name: _shown_tree(value) if is_dataclass(value) else shown(value)
        for spec in fields(section)
        for value in [getattr(section, spec.name)]
    }


def experiments() -> list[str]:
    return _files("experiment")


def _translate(word: str, folder: Folder, env: type[EnvConfig] | None) -> list[str]:
    """One word of the user as words for Hydra.

    Args:
        env: the options of the suite that another word names.
    """
    if word in ("-m", "--multirun"):
        raise ConfigError(f"{word} is rtrl-sweep here: rtrl-sweep sweep_name=NAME and the same words")
    key, value = split_word(word, "rtrl-train")
    if key == "env":
        return [word] if value in folder.files("env") else translate_env(value, env)
    if key in GROUPS:
        if ":" in value and key in sections_with_name():  # a part of the user's own, for which there is no file
            return [f"{key}.name={quoted(value)}"]
        if value not in _files(key, folder):
            raise ConfigError(unknown(key, value, _files(key, folder)))
        return [word]
    if key == "fleet.num_actors":  # what is said last holds: a number, or that there is none
        word = "fleet.num_actors=null" if value == "auto" else word
        return [word, f"fleet.follow_cluster={'true' if value == 'auto' else 'false'}"]
    if is_dict_option(key, env):  # whose own keys Hydra takes only if it is told to add them
        return [f"++{key.lstrip('+')}={value}"]
    if key.startswith("env."):
        free = key in texts_of(env, key)
    else:
        if key not in options(TrainConfig):
            raise ConfigError(unknown("option", key, options(TrainConfig)))
        free = key in free_text(TrainConfig)
    return [f"{key}={quoted(with_home(key, value))}" if free else word]


def _is_kwargs(key: str) -> bool:
    return key.lstrip("+").split(".")[:2] == ["env", "kwargs"]


def _checked(config: TrainConfig) -> TrainConfig:
    validate(config)
    return config


def _files(group: str, folder: Folder | None = None) -> list[str]:
    return (folder or Folder()).all_files(group)


@cache
def _register_schema() -> None:
    store = ConfigStore.instance()
    schema = OmegaConf.structured(TrainConfig)
    schema.env = "???"  # so that any suite's options can take the place, not only those of the default
    store.store(name="schema", node=schema)
    for suite, schema in ENV_CONFIGS.items():
        store.store(group="env", name=suite, node=schema)
