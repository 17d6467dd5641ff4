"""Suites that are not ours: what may be said of them on a command line, and that nothing in a file imports one."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.describe import describe
from conf.knobs import ConfigError
from conf.load import config_hash, load_train, to_yaml
from conf.schema import TrainConfig
from conf.stored import read_stored, read_verbatim
from envs.base import UnknownEnvironment
from envs.registry import find_suite, make_env

LIGHTS = "own_suites:LIGHTS"


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as failure:
        read()
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_its_options_are_those_of_its_class():
    config = load_train([f"env={LIGHTS}/dim", "env.lamps=3", "env.wiring=/plans/a, b=[1"])
    assert (type(config.env).__module__, type(config.env).__name__) == ("own_suites", "LightsConfig")
    assert (config.env.suite, config.env.name, config.name) == (LIGHTS, "dim", "own_suites_LIGHTS_dim")
    assert (config.env.lamps, config.env.wiring) == (3, "/plans/a, b=[1")  # pyright: ignore[reportAttributeAccessIssue]
    assert load_train([f"env={LIGHTS}"]).env.name == "bright"
    assert make_env(config.env, 2, 1).spec.name == "lights/dim"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"env={LIGHTS}", "env.lamp=3"], "unknown option 'env.lamp': did you mean env.lamps"),
        ([f"env={LIGHTS}", "env.lamps=1"], "env.lamps must be at least 2, got 1"),
        (
            [f"env={LIGHTS}", "env.lamps=many"],
            "env.lamps: Value 'many' of type 'str' could not be converted to Integer",
        ),
        ([f"env={LIGHTS}", "env.kwargs.x=1"], f"unknown option 'env.kwargs': env={LIGHTS} takes none"),
        (["env=own_suites:DARK"], "env=own_suites:DARK: module own_suites has no 'DARK'"),
        (["env=own_suites:NO_SUITE"], "env=own_suites:NO_SUITE is no suite: expected an envs.suite.Suite"),
        (["env=no_suites:LIGHTS"], "env=no_suites:LIGHTS: there is no module no_suites here"),
        (["env=own_suite/dim"], "unknown environment suite 'own_suite': expected one of atari, gym"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str):
    assert message in refusal(lambda: load_train(words))


def write_module(folder: Path, name: str, options: str, decorator: str = "@dataclass\n") -> None:
    (folder / f"{name}.py").write_text(
        "from dataclasses import dataclass\n"
        "from conf.env_schema import EnvConfig\n"
        "from envs.suite import Suite\n"
        f"{decorator}class Options(EnvConfig):\n    {options}\n"
        "SUITE = Suite(Options, make=lambda config, num_envs, seed: None)\n"
    )


def test_options_that_cannot_be_used_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write_module(tmp_path, "undecorated", "size: int = 3", decorator="")
    write_module(tmp_path, "unnamed", "size: int = 3")
    write_module(tmp_path, "untyped", "size: tuple[int, complex] | object = 3")
    assert "a dataclass derived from" in refusal(lambda: load_train(["env=undecorated:SUITE"]))
    assert "env=unnamed:SUITE has no default name" in refusal(lambda: load_train(["env=unnamed:SUITE"]))
    assert load_train(["env=unnamed:SUITE/a"]).env.name == "a"
    assert "env=untyped:SUITE: its options cannot be used" in refusal(lambda: load_train(["env=untyped:SUITE/a"]))


def test_help_lists_the_options_of_the_suite_that_is_named():
    assert "env.lamps" in describe(TrainConfig, [f"env={LIGHTS}"])
    assert "env.lamps" not in describe(TrainConfig)
    assert "env.corridor" in describe(TrainConfig)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> str:
    """The configuration of a run with a suite of somebody's own, which fails to be imported from now on."""
    text = to_yaml(load_train([f"env={LIGHTS}/dim", "env.lamps=3", "env.wiring=/theirs"]))
    monkeypatch.setitem(sys.modules, "own_suites", None)
    return text


def test_what_is_stored_is_compared_and_shown_without_an_import(stored: str, monkeypatch: pytest.MonkeyPatch):
    config = read_verbatim(stored)
    assert yaml.safe_load(to_yaml(config)) == yaml.safe_load(stored)
    monkeypatch.undo()
    assert config_hash(load_train([f"env={LIGHTS}/dim", "env.lamps=3", "env.wiring=/theirs"])) == config_hash(config)


def test_it_must_be_said_again_to_be_imported(stored: str, monkeypatch: pytest.MonkeyPatch):
    assert refusal(lambda: read_stored(stored)) == (
        "the stored configuration is of an environment suite of somebody's own, env=own_suites:LIGHTS, which is a module to import: "
        "repeat env=own_suites:LIGHTS if you trust it"
    )
    for other in ("mine:LIGHTS", f"{LIGHTS}/bright", "tmaze", "own_suites:DARK"):
        expected = f"env={other} is not what is stored: {LIGHTS}/dim"
        assert refusal(lambda word=f"env={other}": read_stored(stored, [word])) == expected
    assert "there is no module own_suites here" in refusal(lambda: read_stored(stored, [f"env={LIGHTS}"]))
    monkeypatch.undo()
    for word in (f"env={LIGHTS}", f"env={LIGHTS}/dim"):
        read = read_stored(stored, [word])
        assert type(read.config.env).__name__ == "LightsConfig"
        assert (read.config.env.name, read.config.env.lamps) == ("dim", 3)  # pyright: ignore[reportAttributeAccessIssue]
        assert "env.wiring=/theirs" in read.ignored
        assert read.config.env.wiring == ""  # pyright: ignore[reportAttributeAccessIssue]
    read = read_stored(stored, [f"env={LIGHTS}", "env.wiring=/mine"])
    assert (read.config.env.wiring, read.ignored) == ("/mine", "")  # pyright: ignore[reportAttributeAccessIssue]
    assert "env.lamps is as it is stored" in refusal(lambda: read_stored(stored, [f"env={LIGHTS}", "env.lamps=4"]))


def test_a_suite_of_ours_is_as_it_is_stored():
    text = to_yaml(load_train(["env=tmaze"]))
    for word in (f"env={LIGHTS}", "env=tmaze"):
        assert "env is as it is stored" in refusal(lambda word=word: read_stored(text, [word]))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"lamps": 1}, "env.lamps must be at least 2, got 1"),
        ({"lamps": "many"}, "not a training configuration: Value 'many' of type 'str' could not be converted"),
        ({"lamp": 3}, "not a training configuration: Key 'lamp' not in 'LightsConfig'"),
        ({"__init__": 3}, "'__init__' is not the name of an option"),
        ({"class": 3}, "'class' is not the name of an option"),
        ({"a b": 3}, "'a b' is not the name of an option"),
        ({"name": ["dim"]}, "not a training configuration"),
        ({"reward_clip": "often"}, "env.reward_clip must be one of"),
        ({"lamps": "${seed}"}, "Value '${seed}' of type 'str' could not be converted"),
    ],
)
def test_stored_options_are_checked_all_the_same(option: dict[str, Any], message: str):
    tree = yaml.safe_load(to_yaml(load_train([f"env={LIGHTS}"])))
    tree["env"] |= option
    assert message in refusal(lambda: read_stored(yaml.safe_dump(tree), [f"env={LIGHTS}"]))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that registers suites as an installed one does."""
    information = tmp_path / "lighting-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: lighting\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[r2ac.suites]\nlights = own_suites:LIGHTS\ntmaze = own_suites:LIGHTS\ntorn = no_suites:LIGHTS\nwrong = own_suites:NO_SUITE\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_an_installed_package_registers_a_suite_by_a_short_name(installed: Path):
    config = load_train(["env=lights/dim", "env.lamps=3"])
    assert (config.env.suite, config.env.name, config.name) == ("lights", "dim", "lights_dim")
    assert make_env(config.env, 1, 1).spec.name == "lights/dim"
    stored = to_yaml(config)
    assert read_stored(stored).config.env == config.env
    assert config_hash(read_verbatim(stored)) == config_hash(config)
    assert "lights" in describe(TrainConfig)
    assert "did you mean lights" in refusal(lambda: load_train(["env=lighs/dim"]))


def test_a_name_of_ours_cannot_be_taken_over(installed: Path):
    assert type(load_train(["env=tmaze"]).env).__name__ == "TMazeConfig"
    assert find_suite("tmaze").config.__name__ == "TMazeConfig"


def test_a_registration_that_is_wrong_is_one_line(installed: Path):
    expected = (
        "env=torn: no_suites:LIGHTS, which an installed package registers, cannot be imported: ModuleNotFoundError"
    )
    assert expected in refusal(lambda: load_train(["env=torn"]))
    assert "env=wrong is no suite" in refusal(lambda: load_train(["env=wrong"]))
    with pytest.raises(UnknownEnvironment, match=r"env=wrong is no envs.suite.Suite, but of type int"):
        find_suite("wrong")


def test_what_is_compared_is_not_imported_either(installed: Path, monkeypatch: pytest.MonkeyPatch):
    text = to_yaml(load_train(["env=lights"]))
    monkeypatch.setitem(sys.modules, "own_suites", None)
    assert read_verbatim(text).env.suite == "lights"
