"""Words with several values become every combination once, in the grammar of Hydra's multirun."""

from pathlib import Path

import pytest

from conf.combinations import MOST, combinations
from conf.knobs import ConfigError
from conf.load import load_train


def values(word: str) -> list[str]:
    """Of one word, as each run has it."""
    return [combination.words[0].partition("=")[2] for combination in combinations([word])]


def test_every_combination_comes_once_and_says_what_was_swept():
    found = combinations(["seed=1,2", "experiment=tmaze", "rule=segment,tbptt"])
    assert [combination.words for combination in found] == [
        ("seed=1", "experiment=tmaze", "rule=segment"),
        ("seed=1", "experiment=tmaze", "rule=tbptt"),
        ("seed=2", "experiment=tmaze", "rule=segment"),
        ("seed=2", "experiment=tmaze", "rule=tbptt"),
    ]
    assert found[1].swept == (("rule", "tbptt"), ("seed", "1"))
    assert [combination.swept for combination in combinations(["seed=1", "rule=tbptt"])] == [()]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("env=atari/pong,gym/ALE/Pong-v5,gym/module:Foo-v0", ["atari/pong", "gym/ALE/Pong-v5", "gym/module:Foo-v0"]),
        ("actors.unroll=range(10,40,10)", ["10", "20", "30"]),
        ("rule=choice(segment,tbptt)", ["segment", "tbptt"]),
        ("rule=glob([s*,t*],exclude=sn*)", ["segment", "tbptt"]),
        ("seed=1,1,2", ["1", "2"]),
        ("network.mlp_sizes=[64,64]", ["[64,64]"]),
        ("network.mlp_sizes=[64,64],[128]", ["[64,64]", "[128]"]),
        ("env.kwargs={a: 1, b: 2}", ["{a: 1, b: 2}"]),
        ("++env.kwargs.text='a,b',c", ["'a,b'", "c"]),
        ("env='gym/a,b',tmaze", ["gym/a,b", "tmaze"]),
        ("env.name=pong,breakout", ["pong", "breakout"]),
        ("logging.wandb_project=it's a, {b} $HOME", ["it's a, {b} $HOME"]),
        ("network.load_encoder=choice(a,'b c')", ["a", "b c"]),
        ("actors.num_envs=[", ["["]),
        ("network.core=my.cells:Cell,elstm", ["my.cells:Cell", "elstm"]),
        ("fleet.address=choice(auto,'h:1')", ["auto", "h:1"]),
        ("rule=my.rules:Mine,tbptt", ["my.rules:Mine", "tbptt"]),
    ],
)
def test_values_are_as_they_could_have_been_typed_one_by_one(word: str, expected: list[str]):
    assert values(word) == expected


def test_a_quoted_value_reaches_the_training_without_its_quotes():
    words = [combination.words for combination in combinations(["env=gym/X", "env.kwargs.text='a,b','c d'"])]
    assert [load_train(each).env.kwargs for each in words] == [{"text": "a,b"}, {"text": "c d"}]  # pyright: ignore
    assert load_train(combinations(["env='gym/a,b',tmaze"])[0].words).env.name == "a,b"


def test_files_of_ones_own_are_among_those_that_a_pattern_names(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    for name in ("mine_a", "mine_b"):
        (tmp_path / "experiment" / f"{name}.yaml").touch()
    found = combinations([f"--config-dir={tmp_path}", "experiment=glob(mine_*)"])
    assert [combination.words[1] for combination in found] == ["experiment=mine_a", "experiment=mine_b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1,2", "seed=3"], "seed is given twice: write its values with commas"),
        (["loss.discount=interval(0,1)"], r"loss.discount=interval\(0,1\) has no end of values"),
        (["seed=glob(*)"], r"seed=glob\(\*\): glob\(\) is for the files of env, network"),
        (["fleet.address=choice(null,x)"], r"cannot read 'fleet.address=choice\(null,x\)': "),
        (["experiment=glob(none_*)"], "has no values"),
        (["actors.unroll=range(3,3)"], "has no values"),
        ([f"seed=range(0,{MOST + 1})"], f"{MOST + 1:,} combinations, at most {MOST:,} are expected"),
        (["seed"], "expected option=value, got 'seed'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str):
    with pytest.raises(ConfigError, match=message) as failure:
        combinations(words)
    assert "\n" not in str(failure.value)
