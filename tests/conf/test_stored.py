"""Stored configurations are data: nothing in them is interpolated, imported or followed."""

from dataclasses import fields
from typing import Any

import pytest
import yaml

from conf.env_schema import ENV_CONFIGS
from conf.knobs import PLACE, ConfigError
from conf.load import to_yaml
from conf.schema import TrainConfig
from conf.stored import from_yaml, places, read_stored

ELSEWHERE = "http://127.0.0.1:9/x"


def stored_with(suite: str, **options: Any) -> str:
    """A default run of a suite with some options replaced, ``env__name`` for ``env.name``."""
    tree = yaml.safe_load(to_yaml(TrainConfig(env=ENV_CONFIGS[suite]())))
    for option, value in options.items():
        section, _, name = option.rpartition("__")
        (tree[section] if section else tree)[name] = value
    return yaml.safe_dump(tree)


ALL_PLACES = sorted(
    {(suite, option) for suite in ENV_CONFIGS for option, _, _ in places(TrainConfig(env=ENV_CONFIGS[suite]()))}
)


@pytest.mark.parametrize(("suite", "option"), ALL_PLACES)
def test_every_place_of_every_suite_is_ignored_or_refused(suite: str, option: str):
    config = TrainConfig(env=ENV_CONFIGS[suite]())
    _, owner, spec = next(found for found in places(config) if found[0] == option)
    default = getattr(owner, spec.name)
    value: Any = (
        {"path": ELSEWHERE} if isinstance(default, dict) else [ELSEWHERE] if isinstance(default, list) else ELSEWHERE
    )
    text = stored_with(suite, **{option.replace(".", "__"): value})
    if spec.metadata[PLACE] is True:
        stored = read_stored(text)
        assert next(getattr(o, s.name) for found, o, s in places(stored.config) if found == option) == default
        assert (f"{option}={ELSEWHERE}" in stored.ignored) == option.startswith("env.")
        assert "\n" not in stored.ignored
    elif option.startswith(("rule.", "algorithm.")):  # nobody who reads needs them: ours take their place
        stored = read_stored(text)
        assert next(getattr(o, s.name) for found, o, s in places(stored.config) if found == option) in (
            "tbptt",
            "r2ac",
            {},
        )
        assert (option in stored.ignored) == option.startswith("rule.")
    else:
        with pytest.raises(ConfigError, match=rf"has {option}=.*127\.0\.0\.1.*repeat {option}=\.\.\. if you trust it"):
            read_stored(text)


def test_every_option_of_text_without_choices_is_a_place_or_a_name():
    """A new option is in neither list: say in its knob whether it is a place, or here that it is none."""
    names = {"name", "suite", "device", "object"}
    sections = [TrainConfig, *ENV_CONFIGS.values()]
    sections += [
        s.type for s in fields(TrainConfig) if isinstance(s.type, type) and hasattr(s.type, "__dataclass_fields__")
    ]
    free = {
        f"{section.__name__}.{spec.name}"
        for section in sections
        for spec in fields(section)
        if spec.type in (str, str | None, list[str], dict[str, Any])
        and not spec.metadata.get("choices")
        and not spec.metadata.get(PLACE)
        and spec.name not in names
    }
    assert free == set()


@pytest.mark.seconds
def test_a_place_that_the_caller_says_again_counts():
    text = stored_with("dmlab", env__level_cache="/theirs", env__level_cache_remote="s3://theirs/x")
    stored = read_stored(text, ["env.level_cache=/mine, or so"])
    assert (stored.config.env.level_cache, stored.config.env.level_cache_remote) == ("/mine, or so", None)  # pyright: ignore
    assert stored.ignored.startswith("ignored, as it was not said again: env.level_cache_remote=s3://theirs/x")
    assert read_stored(text, ["env.level_cache=null", "env.level_cache_remote=null"]).ignored == ""


def test_a_task_that_imports_a_module_must_be_repeated_exactly():
    text = stored_with("gym", env__name="their_module:CartPole-v1")
    with pytest.raises(ConfigError, match=r"env.name=their_module:CartPole-v1, which can import a module"):
        read_stored(text)
    with pytest.raises(ConfigError, match=r"env.name=mine:CartPole-v1 is not what is stored: their_module:CartPole-v1"):
        read_stored(text, ["env.name=mine:CartPole-v1"])
    assert read_stored(text, ["env.name=their_module:CartPole-v1"]).config.env.name == "their_module:CartPole-v1"


def test_only_places_can_be_said_again():
    with pytest.raises(ConfigError, match=r"^env.sticky_actions is as it is stored: only network.encoder, network.enc"):
        read_stored(stored_with("atari"), ["env.sticky_actions=0.25"])
    with pytest.raises(
        ConfigError, match=r"^env.num_levels is as it is stored: only env.name, env.dataset_path, env.level_cache, "
    ):
        read_stored(stored_with("dmlab"), ["env.num_levels=5"])
    with pytest.raises(ConfigError, match=r"^fleet.address is as it is stored"):
        read_stored(stored_with("dmlab"), ["fleet.address=auto"])


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:R2AC_SECRET}",
        "a ${oc.env:R2AC_SECRET} b",
        r"\${oc.env:R2AC_SECRET}",
        r"\\${seed}",
        "${seed}",
        "${",
        "???x",
        "${a",
        "$${b}",
    ],
)
def test_nothing_is_interpolated(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R2AC_SECRET", "very-secret")
    config = from_yaml(stored_with("tmaze", name=text, env__name=text))
    assert (config.name, config.env.name) == (text, text)
    with pytest.raises(ConfigError, match="could not be converted to Integer"):
        from_yaml(stored_with("tmaze", seed="${total_steps}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just words", "env.suite is missing"),
        ("[1, 2]", "env.suite is missing"),
        ("env: {suite: [1]}", "env.suite is missing"),
        ("env: {suite: nes}", "env.suite is 'nes'"),
        ("env: {suite: tmaze}\nseed: {}", "not a training configuration"),
        ("env: {suite: tmaze}\n1: 2", "1 is not the name of an option"),
        ("env: {suite: tmaze, corridor: 0}", "env.corridor must be at least 1, got 0"),
        ('env: {suite: tmaze}\nname: "a\\nb"', "name must be one line without control characters, got 'a\\\\nb'"),
        ("env: !!python/object/apply:os.getcwd []", "tags are not allowed"),
        ("a: &a [x]\nb: *a", "aliases are not allowed in line 2"),
        ("[" * 10_000, "more than 50 levels"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("x" * 1_000_001, "1,000,001 characters, at most 1,000,000 are expected"),
    ],
)
def test_what_is_no_configuration_is_one_line(text: str, message: str):
    with pytest.raises(ConfigError, match=message) as failure:
        from_yaml(text)
    assert "\n" not in str(failure.value)


def test_an_alias_bomb_is_refused_before_it_is_built():
    """Resolved, this is 9^9 texts."""
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
    with pytest.raises(ConfigError, match="aliases are not allowed"):
        from_yaml(bomb)
