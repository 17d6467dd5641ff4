"""Names of runs and folders as people type them."""

import os
from pathlib import Path

import pytest

from conf.knobs import ConfigError
from conf.load import load_evaluate, load_train
from conf.load_submit import load_submit


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "a/b", "/x", "-x", ".hidden", "x" * 256, "ü" * 128])
def test_a_name_that_is_no_folder_in_runs_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name must be that of one folder inside runs/, .* run_dir=PATH"):
        load_train([f"name={name}"])


@pytest.mark.parametrize("name", ["a b", "it's", "50%", "a-b.c", "ü" * 127, "{x}", "$HOME", "[1]"])
def test_any_other_name_is_taken_as_it_is(name: str) -> None:
    assert load_train([f"name={name}"]).name == name


@pytest.mark.parametrize("name", ["a\nb", "a\x00b", "a\x1b[2Jb"])
def test_a_name_has_no_control_characters(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        load_train([f"name={name}"])


def test_a_home_folder_is_meant_by_a_tilde_wherever_a_path_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_train(
        ["run_dir=~/my runs/x", "resume=~/old", "network.load_encoder=~", "env=dmlab", "env.level_cache=~/maps"]
    )
    assert config.run_dir == f"{tmp_path}/my runs/x"
    assert config.resume == f"{tmp_path}/old"
    assert config.network.load_encoder == str(tmp_path)
    assert config.env.level_cache == f"{tmp_path}/maps"  # pyright: ignore[reportAttributeAccessIssue]
    assert load_evaluate(["checkpoint=~/runs/x"]).checkpoint == f"{tmp_path}/runs/x"
    submitted, training = load_submit(["job_name=a", "run_root=~/runs", "target=slurm", "target.scratch=~/t"])
    assert submitted.run_root == f"{tmp_path}/runs"
    assert submitted.target.scratch == f"{tmp_path}/t"  # pyright: ignore[reportAttributeAccessIssue]
    assert training == []


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="run_dir=~nobody-of-that-name/x: there is no user 'nobody-of-that-name' here"
    ):
        load_train(["run_dir=~nobody-of-that-name/x"])


def test_a_tilde_elsewhere_is_a_character() -> None:
    assert load_train(["run_dir=/tmp/~x"]).run_dir == f"{os.sep}tmp/~x"
    assert load_train(["run_dir=s3://bucket/~x"]).run_dir == "s3://bucket/~x"
