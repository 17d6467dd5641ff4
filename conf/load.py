"""From what a user types to a checked, typed configuration. ``DictConfig`` never leaves this file.

env=SUITE/NAME       any game, level or id of a suite, without a file of its own; the rest of the line works as in Hydra:
rule=tbptt           a file of a group under conf/
actors.unroll=50     one option
"""

import difflib
import hashlib
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from functools import cache
from pathlib import Path
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
from conf.knobs import CHOICES, HELP, PLACE, ConfigError, validate
from conf.names import check_run_name, with_home
from conf.places import Interpolated, shown
from conf.schema import EvaluateConfig, TrainConfig
from conf.suites import default_name, env_config_class, suite_names

T = TypeVar("T")

GROUPS = ("env", "network", "rule", "learner", "fleet", "logging", "experiment")
NOT_LEARNING = ("name", "run_dir", "resume", "logging", "seed", "fleet")
"""What does not change what is learned: left out of ``config_hash``."""
_lock = threading.Lock()


def load_train(overrides: Sequence[str]) -> TrainConfig:
    """A training configuration from command-line words.

    A run of an environment that the experiment did not name is named after it: ``env=atari/pong`` trains in ``runs/atari_pong``.

    Raises:
        ConfigError: for anything that cannot work; one line.
    """
    env = _env_of(overrides)
    words = [word for override in overrides for word in _translate(override, env)]
    _register_schema()
    with _lock:
        try:
            GlobalHydra.instance().clear()
            with initialize_config_module(config_module="conf", version_base="1.3"):
                tree = compose(config_name="train", overrides=words)
            config = OmegaConf.to_object(tree)
            _keep_typed(tree, config)
        except OverrideParseException as error:
            raise ConfigError(f"cannot read {error.override!r}: {_one_line(error)}") from None
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_one_line(error)) from None
        finally:
            GlobalHydra.instance().clear()
    assert isinstance(config, TrainConfig)
    given = {override.partition("=")[0]: override.partition("=")[2] for override in overrides}
    if any(map(_is_kwargs, given)) and "kwargs" not in [option.name for option in fields(config.env)]:
        raise ConfigError(f"unknown option 'env.kwargs': env={config.env.suite} takes none, env=gym/ID does")
    if "env" in given and "name" not in given:
        config.name = _run_name(given.get("experiment"), config)
    check_run_name(config.name)
    return _checked(config)


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


def _run_name(experiment: str | None, config: TrainConfig) -> str:
    env = config.env.suite if config.env.name == config.env.suite else f"{config.env.suite}_{config.env.name}"
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
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"expected option=value, got {override!r}")
        if key not in _options(schema):
            raise ConfigError(_unknown("option", key, _options(schema)))
        values[key] = _text_or_none(with_home(key, value)) if key in _free_text(schema) else read_yaml(value, key)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from None
    assert isinstance(config, schema)
    validate(config)
    return config


def to_yaml(config: TrainConfig) -> str:
    """Everything, defaults included: what a run folder and a checkpoint keep. Without secrets: see ``conf/places.py``."""
    return yaml.safe_dump(_shown_tree(config), sort_keys=False, allow_unicode=True)


def config_hash(config: TrainConfig) -> str:
    """Equal for runs that should learn the same up to their seed: where and how they ran does not count."""
    kept = {key: value for key, value in _shown_tree(config).items() if key not in NOT_LEARNING}
    return hashlib.sha256(yaml.safe_dump(kept, sort_keys=True).encode()).hexdigest()[:12]


def _shown_tree(section: Any) -> dict[str, Any]:
    return {
        spec.name: _shown_tree(value) if is_dataclass(value) else shown(value)
        for spec in fields(section)
        for value in [getattr(section, spec.name)]
    }


def experiments() -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parent / "experiment").glob("*.yaml"))


def describe(schema: type, words: Sequence[str] = ()) -> str:
    """Every option with its default and meaning, for ``--help``; of environments, those of the suite that ``words`` name, else of ours."""
    lines: list[str] = []
    if schema is TrainConfig:
        lines += [
            "usage: rtrl-train [experiment=NAME] [env=SUITE/NAME] [GROUP=FILE] [option=value ...]",
            "",
            f"experiments: {', '.join(experiments())}",
            f"suites: {', '.join(suite_names())}; or MODULE:SUITE of your own (docs/environments.md)",
            *(f"{group}: {', '.join(_files(group))}" for group in GROUPS if group not in ("env", "experiment")),
            "",
        ]
    for option, spec in _walk(schema):
        choices = spec.metadata.get(CHOICES)
        meaning = spec.metadata.get(HELP, "") + (f" ({' | '.join(choices)})" if choices else "")
        lines.append(f"  {option:38} {_default(spec)!s:>14}   {meaning}")
    if schema is TrainConfig:
        named = _env_of(words)
        for suite, env in (ENV_CONFIGS if named is None else {_suite_of(words): named}).items():
            lines += ["", f"env={suite}: {(env.__doc__ or '').strip().splitlines()[0]}"]
            for option, spec in _walk(env, "env."):
                lines.append(f"  {option:38} {_default(spec)!s:>14}   {spec.metadata.get(HELP, '')}")
    return "\n".join(lines)


def _env_of(overrides: Sequence[str]) -> type[EnvConfig] | None:
    """The options of the suite that ``env=SUITE/NAME`` names; ``None`` if no word does, or there is no such suite."""
    suite = _suite_of(overrides)
    return env_config_class(suite) if suite else None


def _suite_of(overrides: Sequence[str]) -> str:
    values = [override.removeprefix("env=") for override in overrides if override.startswith("env=")]
    return values[-1].partition("/")[0] if values else ""


def _translate(word: str, env: type[EnvConfig] | None) -> list[str]:
    """One word of the user as words for Hydra.

    Args:
        env: the options of the suite that another word names.
    """
    key, separator, value = word.partition("=")
    if not separator:
        raise ConfigError(f"expected option=value, got {word!r}; rtrl-train --help lists the options")
    if key == "env":
        return _translate_env(value, env)
    if key in GROUPS:
        if value not in _files(key):
            raise ConfigError(_unknown(key, value, _files(key)))
        return [word]
    if _is_kwargs(key):  # whose own keys Hydra takes only if it is told to add them
        return [f"++{key.lstrip('+')}={value}"]
    section = key.split(".")[0]
    if section != "env" and key not in _options(TrainConfig):
        raise ConfigError(_unknown("option", key, _options(TrainConfig)))
    if section == "env" and env is not None and env not in ENV_CONFIGS.values():
        options = [option for option, _ in _walk(env, "env.")]
        if key not in options:
            raise ConfigError(_unknown("option", key, options))
        free = key in _free_text(env, "env.")
    else:
        free = key in _free_text(TrainConfig)
    return [f"{key}={_quoted(with_home(key, value))}" if free else word]


def _is_kwargs(key: str) -> bool:
    return key.lstrip("+").split(".")[:2] == ["env", "kwargs"]


def _translate_env(value: str, config: type[EnvConfig] | None) -> list[str]:
    suite, slash, name = value.partition("/")
    if config is None:
        raise ConfigError(_unknown("environment suite", suite, suite_names()) + "; write env=SUITE/NAME")
    if suite not in ENV_CONFIGS:
        node = OmegaConf.structured(config)
        node.suite = suite
        ConfigStore.instance().store(group="env", name=suite, node=node)
    return [f"env={suite}", f"env.name={_quoted(name if slash else default_name(suite, config))}"]


@cache
def _free_text(schema: type, path: str = "") -> frozenset[str]:
    """Options whose values are taken as they are: they may hold characters that Hydra's grammar and YAML give a meaning."""
    options = [*_walk(schema, path)]
    if schema is TrainConfig:
        options += [pair for env in ENV_CONFIGS.values() for pair in _walk(env, "env.")]
    written = (str, str | None, "str", "str | None")  # the last two where a module postpones its annotations
    texts = {option for option, spec in options if spec.metadata.get(PLACE) and spec.type in written}
    return frozenset(texts | {"name", "env.name"})


def _text_or_none(value: str) -> str | None:
    return None if value == "null" else value


def _quoted(value: str) -> str:
    if value == "null" or value[:1] in "'\"":
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _checked(config: TrainConfig) -> TrainConfig:
    validate(config)
    return config


def _files(group: str) -> list[str]:
    return (
        list(ENV_CONFIGS)
        if group == "env"
        else sorted(path.stem for path in (Path(__file__).parent / group).glob("*.yaml"))
    )


@cache
def _register_schema() -> None:
    store = ConfigStore.instance()
    schema = OmegaConf.structured(TrainConfig)
    schema.env = "???"  # so that any suite's options can take the place, not only those of the default
    store.store(name="schema", node=schema)
    for suite, schema in ENV_CONFIGS.items():
        store.store(group="env", name=suite, node=schema)


def _walk(schema: type, path: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Every option below a dataclass; the environment's are listed apart, by suite."""
    for spec in fields(schema):
        if is_dataclass(spec.type) and isinstance(spec.type, type):
            if spec.name != "env":
                yield from _walk(spec.type, f"{path}{spec.name}.")
        else:
            yield f"{path}{spec.name}", spec


def _options(schema: type) -> list[str]:
    return [option for option, _ in _walk(schema)]


def _default(spec: Field[Any]) -> Any:
    value = (
        spec.default
        if spec.default is not NO_DEFAULT
        else spec.default_factory()
        if spec.default_factory is not NO_DEFAULT
        else ""
    )
    return {"???": "required", None: "null"}.get(value, value) if isinstance(value, (str, type(None))) else value


def _unknown(what: str, got: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(got, known, n=3, cutoff=0.6)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"expected one of {', '.join(known)}"
        if len(known) < 60
        else "see --help"
    )
    return f"unknown {what} {got!r}: {hint}"


def _one_line(error: BaseException) -> str:
    """The sentence of an error that says what is wrong, and which option it is about."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None and not lines[0].startswith(("Key", "Value", "Missing")):
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or lines
    option = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), None)
    sentence = lines[0] if lines else type(error).__name__
    return f"{option}: {sentence}" if option and option not in sentence else sentence
