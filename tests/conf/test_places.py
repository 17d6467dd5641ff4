"""What is stored and said of paths and addresses holds no secret."""

import copy
import pickle
from dataclasses import replace

import pytest

from conf.load import config_hash, load_evaluate, load_train, to_yaml
from conf.places import Interpolated, redacted, shown
from conf.stored import read_verbatim

SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:secret@host/bucket", "s3://***@host/bucket"),
        ("cannot reach http://me:p@ss@host:80/a, http://host/b", "cannot reach http://***@host:80/a, http://host/b"),
        ("https://token@host", "https://***@host"),
        ("https://host/x?X-Amz-Signature=abc&a=b", "https://host/x?***"),
        ("s3://bucket/mail@home", "s3://bucket/mail@home"),
        ("me@host: why? because", "me@host: why? because"),
        ("/a/b@c?d", "/a/b@c?d"),
    ],
)
def test_passwords_and_parameters_of_urls_are_not_shown(text: str, expected: str):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "option",
    ["env.level_cache_remote", "network.load_encoder", "run_dir", "fleet.address", "resume", "logging.wandb_entity"],
)
def test_what_is_interpolated_into_a_place_is_used_and_stored_as_it_was_typed(
    option: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("R2AC_TEST_SECRET", SECRET)
    typed = "http://host/${oc.env:R2AC_TEST_SECRET}/levels"
    config = load_train(["env=dmlab", f"{option}={typed}"])
    section, _, name = option.rpartition(".")
    value = getattr(getattr(config, section) if section else config, name)
    assert value == f"http://host/{SECRET}/levels"
    for same in (config, copy.deepcopy(config), pickle.loads(pickle.dumps(config)), replace(config, seed=3)):
        assert SECRET not in to_yaml(same)
        assert typed in to_yaml(same)
    assert SECRET not in redacted(f"no answer from {value}/a.pk3")
    assert config_hash(config) == config_hash(read_verbatim(to_yaml(config)))


def test_arguments_of_an_environment_are_stored_as_they_were_typed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R2AC_TEST_SECRET", SECRET)
    arguments = {"key": Interpolated(SECRET, "${oc.env:R2AC_TEST_SECRET}"), "n": [1, "s3://a:b@c"]}
    assert shown(arguments) == {"key": "${oc.env:R2AC_TEST_SECRET}", "n": [1, "s3://***@c"]}


def test_names_and_numbers_are_stored_as_they_were_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R2AC_TEST_GAME", "pong")
    monkeypatch.setenv("R2AC_TEST_SEED", "7")
    config = load_train(["env=atari", "env.name=${oc.env:R2AC_TEST_GAME}", "seed=${oc.env:R2AC_TEST_SEED}"])
    assert (read_verbatim(to_yaml(config)).env.name, read_verbatim(to_yaml(config)).seed) == ("pong", 7)


def test_a_missing_variable_is_one_line():
    from conf.knobs import ConfigError

    with pytest.raises(ConfigError, match="Environment variable 'R2AC_NOT_THERE' not found") as failure:
        load_train(["run_dir=${oc.env:R2AC_NOT_THERE}/x"])
    assert "\n" not in str(failure.value)


def test_places_are_taken_as_they_are_typed():
    assert load_train(["env=dmlab", "env.level_cache=/a b,c=[d]"]).env.level_cache == "/a b,c=[d]"  # pyright: ignore
    assert load_evaluate(["checkpoint=[x]: y", "output=null"]).checkpoint == "[x]: y"
    assert load_evaluate(["checkpoint=1", "output=null"]).output is None
