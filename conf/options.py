"""Which options a schema has, with their paths: ``actors.unroll`` for the field ``unroll`` of the section ``actors``."""

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from typing import Any

from conf.env_schema import ENV_CONFIGS, EnvConfig
from conf.knobs import PLACE
from conf.schema import TrainConfig

_TEXT = (str, str | None, "str", "str | None")
"""Types of a text, as they are written; the last two where a module postpones its annotations."""


def walk(schema: type, path: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Every option below a dataclass; the environment's are listed apart, by suite."""
    for spec in fields(schema):
        if is_dataclass(spec.type) and isinstance(spec.type, type):
            if spec.name not in ("env", "target"):
                yield from walk(spec.type, f"{path}{spec.name}.")
        else:
            yield f"{path}{spec.name}", spec


def options(schema: type, path: str = "") -> list[str]:
    return [option for option, _ in walk(schema, path)]


def sections_with_name() -> list[str]:
    """Those whose group file stands for a name: ``rule=module:Name`` sets ``rule.name``."""
    return [
        option.removesuffix(".name")
        for option in options(TrainConfig)
        if option.count(".") and option.endswith(".name")
    ]


def free_text(schema: type, path: str = "") -> frozenset[str]:
    """Options whose values are taken as they are: they may hold characters that Hydra's grammar and YAML give a meaning."""
    texts = {option for option, spec in _with_suites(schema, path) if spec.metadata.get(PLACE) and spec.type in _TEXT}
    return frozenset(texts | {"name", "env.name"})


def destinations() -> frozenset[str]:
    """Options of a training whose text is a path, an address or a destination, not a name among others."""
    return frozenset(
        option for option, spec in _with_suites(TrainConfig) if spec.metadata.get(PLACE) is True and spec.type in _TEXT
    )


def is_dict_option(key: str, env: type[EnvConfig] | None = None) -> bool:
    """Whether it is an option of any keys, or one of these keys: ``env.kwargs``, ``env.kwargs.size``; also behind Hydra's ``+``.

    Args:
        env: the options of a suite that is not ours.
    """
    key = key.lstrip("+")
    known = [*_with_suites(TrainConfig), *(walk(env, "env.") if env is not None else [])]
    return any(
        key == option or key.startswith(f"{option}.") for option, spec in known if str(spec.type).startswith("dict[")
    )


def default(spec: Field[Any]) -> Any:
    """As it is shown to a person."""
    value = (
        spec.default
        if spec.default is not NO_DEFAULT
        else spec.default_factory()
        if spec.default_factory is not NO_DEFAULT
        else ""
    )
    return {"???": "required", None: "null"}.get(value, value) if isinstance(value, (str, type(None))) else value


def _with_suites(schema: type, path: str = "") -> Iterator[tuple[str, Field[Any]]]:
    yield from walk(schema, path)
    if schema is TrainConfig:
        for env in ENV_CONFIGS.values():
            yield from walk(env, "env.")
