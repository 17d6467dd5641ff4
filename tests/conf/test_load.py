"""Every YAML composes, and every mistake is one line that says what to do."""

from dataclasses import dataclass, field, make_dataclass
from itertools import cycle
from typing import Any

import pytest

from actors.trajectory import BYTES_OF_A_STEP
from benchmarks.learning import FIRST_BREAKOUT
from conf.describe import describe
from conf.env_schema import ENV_CONFIGS, AtariConfig, DMLabConfig, GymConfig, TMazeConfig
from conf.folder import Folder
from conf.knobs import ConfigError
from conf.load import GROUPS, _translate, config_hash, experiments, load_evaluate, load_train, to_yaml
from conf.options import is_dict_option, sections_with_name
from conf.schema import TrainConfig
from conf.stored import from_yaml, read_verbatim
from learner.q_options import QOptions

PAPER_GAMES = ("breakout", "gravitar", "ms_pacman", "qbert", "seaquest")


@pytest.mark.parametrize("experiment", experiments())
def test_every_experiment_composes_and_survives_a_round_trip(experiment: str):
    config = load_train([f"experiment={experiment}"])
    assert config.name == experiment
    assert read_verbatim(to_yaml(config)) == config
    assert config_hash(read_verbatim(to_yaml(config))) == config_hash(config)


@pytest.mark.seconds
@pytest.mark.parametrize("group", ["network", "rule", "learner", "fleet", "logging"])
def test_every_file_of_every_group_composes_and_so_does_every_suite(group: str):
    from conf.load import _files

    for name, suite in zip(_files(group), cycle(ENV_CONFIGS), strict=False):
        assert isinstance(load_train([f"{group}={name}", f"env={suite}"]).env, ENV_CONFIGS[suite])
    assert group in GROUPS


@pytest.mark.soak
@pytest.mark.parametrize("suite", ENV_CONFIGS)
@pytest.mark.parametrize("group", ["network", "rule", "learner", "fleet", "logging"])
def test_every_file_of_every_group_composes_with_every_suite(group: str, suite: str):
    from conf.load import _files

    for name in _files(group):
        assert isinstance(load_train([f"{group}={name}", f"env={suite}"]).env, ENV_CONFIGS[suite])


def test_the_default_is_breakout_with_exact_rtrl_through_ray():
    config = load_train([])
    assert (config.env.suite, config.env.name, config.rule.name, config.fleet.kind) == (
        "atari",
        "breakout",
        "segment",
        "ray",
    )


@pytest.mark.seconds
@pytest.mark.parametrize("game", PAPER_GAMES)
def test_the_rows_of_the_papers_atari_table_differ_only_in_their_rule_or_core(game: str):
    rows = {row: load_train([f"experiment=atari_{game}_{row}"]) for row in ("feedforward", "tbptt", "rtrl")}
    for config in rows.values():
        assert (config.env.name, config.total_steps, config.actors.unroll) == (game, 200_000_000, 50)
        assert (config.learner.learning_rate, config.learner.rmsprop_epsilon, config.learner.clip_norm) == (
            6e-4,
            0.01,
            40,
        )
        assert (config.learner.batch_segments, config.network.num_units, config.network.encoder) == (32, 256, "impala")
        assert (config.fleet.num_streams, config.fleet.num_actors) == (48, None)
    assert rows["feedforward"].network.core == "feedforward"
    assert (rows["tbptt"].rule.name, rows["rtrl"].rule.name) == ("tbptt", "segment")


@pytest.mark.parametrize("game", PAPER_GAMES)
def test_the_impala_rows_of_atari_have_its_published_constants(game: str):
    config = load_train([f"experiment=atari_{game}_impala"])
    assert (config.env.name, config.algorithm.name, config.rule.name) == (game, "impala", "tbptt")
    assert (config.total_steps, config.actors.unroll, config.learner.batch_segments) == (50_000_000, 20, 32)
    assert (config.network.encoder, config.network.core) == ("impala", "feedforward")
    assert (config.env.reward_clip, config.loss.entropy_cost, config.loss.baseline_cost) == ("abs_one", 0.01, 0.5)
    learner = config.learner
    assert (learner.optimizer, learner.learning_rate, learner.final_learning_rate) == ("rmsprop_tf", 6e-4, 0)
    assert (learner.rmsprop_decay, learner.rmsprop_epsilon, learner.clip_norm) == (0.99, 0.01, 40)


R2D2_ROWS = {f"atari_{game}_r2d2": 84 * 84 for game in PAPER_GAMES} | {
    f"dmlab_{level}_r2d2": 72 * 96 * 3 for level in ("nonmatching", "watermaze", "keys_doors")
}
"""And bytes of a frame."""


@pytest.mark.parametrize(("row", "frame"), R2D2_ROWS.items())
def test_the_r2d2_rows_have_the_papers_constants(row: str, frame: int):
    config = load_train([f"experiment={row}"])
    assert (config.algorithm.name, config.rule.name, config.total_steps) == ("r2d2", "tbptt", 2_500_000_000)
    network = config.network
    assert (network.encoder, network.features, network.core, network.num_units) == ("nature", 512, "lstm", 512)
    assert (network.heads, network.head_sizes, network.last_reward, network.last_action) == (
        "dueling",
        [512],
        True,
        True,
    )
    assert (config.actors.unroll, config.fleet.num_streams, config.loss.discount) == (40, 256, 0.997)
    learner = config.learner
    assert (learner.optimizer, learner.learning_rate, learner.final_learning_rate) == ("adam", 1e-4, 1e-4)
    assert (learner.adam_epsilon, learner.clip_norm, config.env.reward_clip) == (1e-3, 40, "none")
    options = QOptions(**config.algorithm.options)
    assert (options.burn_in, options.length, options.burn_in_gradient, options.batch_sequences) == (40, 80, False, 64)
    assert (options.n_step, options.target_period, options.replay_ratio) == (5, 2500, 0.8)
    assert (options.priority_exponent, options.importance_exponent, options.max_share) == (0.9, 0.6, 0.9)
    assert (options.epsilon_base, options.epsilon_exponent, options.min_sequences) == (0.4, 7, 5000)
    of_state = 2 * 512 * 4 / config.actors.unroll
    steps = options.replay_bytes / (frame + of_state + BYTES_OF_A_STEP)
    assert 4_000_000 <= steps < 4_300_000, "a hundred thousand sequences that begin every forty steps"
    if row.startswith("atari"):
        assert isinstance(config.env, AtariConfig)
        assert (config.env.full_action_space, config.env.episodic_life, config.env.max_frames) == (True, False, 108_000)
        assert row == f"atari_{config.env.name}_r2d2"
    else:
        assert isinstance(config.env, DMLabConfig)
        assert config.env.actions == "fifteen"
        impala = load_train([f"experiment={row.replace('r2d2', 'impala')}"])
        assert config.env.name == impala.env.name


def test_any_name_of_a_suite_works_without_a_file():
    assert load_train(["env=atari/ms_pacman"]).env == AtariConfig(name="ms_pacman")
    assert load_train(["env=gym/ALE/Pong-v5"]).env == GymConfig(name="ALE/Pong-v5")
    assert load_train(["env=tmaze", "env.corridor=7"]).env == TMazeConfig(corridor=7)


def test_what_is_typed_wins_over_the_experiment():
    config = load_train(
        ["experiment=tmaze", "env=atari/pong", "rule=tbptt", "fleet=local", "actors.unroll=3", "total_steps=1_000"]
    )
    assert (config.env.name, config.rule.name, config.fleet.kind) == ("pong", "tbptt", "local")
    assert (config.actors.unroll, config.total_steps) == (3, 1000)


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize("word", ["env.kwargs={gravity: 3}", "env.kwargs.gravity=3"])
def test_an_environments_own_arguments_are_given_in_any_of_hydras_ways(plus: str, word: str):
    env = load_train(["env=gym/module:Foo-v0", plus + word, "env.kwargs.depth.inner=[1,2]"]).env
    assert isinstance(env, GymConfig)
    assert env.kwargs == {"gravity": 3, "depth": {"inner": [1, 2]}}


def test_paths_may_hold_any_character():
    assert load_train(["run_dir=/tmp/a run=1,b", "resume=/tmp/{x}"]).run_dir == "/tmp/a run=1,b"
    assert load_train(["run_dir=null"]).run_dir is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["actors.unrol=3"], "unknown option 'actors.unrol': did you mean actors.unroll"),
        (["unroll=3"], "unknown option 'unroll'"),
        (["env=atari/pong", "env.sticky=1"], "env.sticky: Key 'sticky' not in 'AtariConfig'"),
        (["actors.unroll=0"], "actors.unroll must be at least 1, got 0"),
        (["actors.num_envs=-2"], "actors.num_envs must be at least 1, got -2"),
        (["total_steps=-4"], "total_steps must be at least 1, got -4"),
        (["actors.unroll=many"], "actors.unroll: Value 'many' of type 'str' could not be converted to Integer"),
        (["actors.unroll=1.5"], "actors.unroll: Value '1.5' of type 'float' could not be converted to Integer"),
        (["learner.learning_rate=nan"], "learner.learning_rate must be a finite number, got nan"),
        (["learner.learning_rate=5"], "learner.learning_rate must be at most 1, got 5"),
        (["learner.mode=often"], "learner.mode must be one of sync, lockstep, async, got 'often'"),
        (["fleet.in_flight=3"], "fleet.in_flight must be at most 2, got 3"),
        (["experiment=nothing"], "unknown experiment 'nothing': see --help"),
        (["rule=bptt"], "unknown rule 'bptt': did you mean tbptt?"),
        (["env=nes/mario"], "unknown environment suite 'nes': expected one of atari"),
        (["env=tmaze", "env.kwargs.x=1"], "unknown option 'env.kwargs': env=tmaze takes none, env=gym/ID does"),
        (["env=gym/Foo-v0", "env.kwargs=3"], r"env.kwargs: Cannot assign int to Dict\[str, Any\]"),
        (["env=gym/Foo-v0", "+env.kwarg.x=3"], "unknown option '\\+env.kwarg.x'"),
        (["sync"], "expected option=value, got 'sync'"),
        (["seed=1,2"], "Ambiguous value for argument 'seed=1,2'; rtrl-sweep trains with each of several values"),
        (["actors.num_envs=["], r"cannot read 'actors.num_envs=\['"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str):
    with pytest.raises(ConfigError, match=message) as failure:
        load_train(words)
    assert "\n" not in str(failure.value)


def test_a_saved_configuration_with_options_we_do_not_have_is_refused():
    with pytest.raises(ConfigError, match="not a training configuration"):
        from_yaml(to_yaml(load_train([])).replace("total_steps", "total_step"))
    with pytest.raises(ConfigError, match="not a training configuration"):
        from_yaml("just words")


def test_a_configuration_from_before_openings_means_what_was_played_then():
    stored = to_yaml(load_train(["env=atari/breakout"]))
    assert from_yaml(stored).env.opening == "paper"  # pyright: ignore[reportAttributeAccessIssue]
    older = "".join(line for line in stored.splitlines(keepends=True) if line.strip() != "opening: paper")
    assert older != stored
    assert from_yaml(older).env.opening == "ale"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.seconds
@pytest.mark.parametrize(
    "experiment", [name for name in experiments() if name.startswith(("atari_", "dmlab_", "procgen_"))]
)
def test_the_papers_rows_compute_the_same_on_every_machine(experiment: str):
    config = load_train([f"experiment={experiment}"])
    ours = ("atari_breakout", "atari_breakout_r2d2_small", "procgen_chaser")
    assert experiment in ours or config.actors.autocast == "float32"


@pytest.mark.seconds
def test_the_hash_ignores_seed_place_and_logging_and_nothing_else():
    base = config_hash(load_train([]))
    assert config_hash(load_train(["seed=7", "run_dir=/tmp/x", "logging.interval_s=1", "fleet.num_actors=3"])) == base
    assert config_hash(load_train(["actors.num_cpus=0.5", "actors.num_gpus=0.25"])) == base
    for word in ("actors.unroll=21", "rule=tbptt", "env=atari/pong", "learner.learning_rate=2e-3", "loss.discount=0.9"):
        assert config_hash(load_train([word])) != base


HASHES = {
    ("experiment=atari_breakout_rtrl",): "18240b2bc009",
    ("env=atari/pong", "env.opening=ale"): "ab0ba7ffb88a",
    ("env=procgen/chaser",): "2c5c83d78b2d",
    ("env=tmaze",): "600445e57732",
    ("env=dmlab30",): "9ea6e652bd0f",
    ("env=dmlab/rooms_watermaze",): "2ba53286d91c",
    ("env=minigrid",): "e8adbcbada22",
    ("env=gym/CartPole-v1",): "e030ee981427",
    ("env=delayed_match",): "7dde97af4a7a",
    ("env=copy_task",): "3bd76f93f629",
}
"""Of runs of every suite, as they were on 2026-11-26; with the settings that ``make train`` had then."""


@pytest.mark.parametrize(("words", "then"), HASHES.items(), ids=[words[0] for words in HASHES])
def test_an_option_that_is_new_changes_no_hash_of_a_run_without_it(words: tuple[str, ...], then: str):
    of_then = () if any(word.startswith("experiment") for word in words) else FIRST_BREAKOUT
    assert config_hash(load_train([*words, *of_then])) == then


def test_every_suite_has_a_hash_that_must_not_change():
    assert {load_train(words).env.suite for words in HASHES} == set(ENV_CONFIGS)


def test_help_names_every_option_group_and_experiment():
    text = describe(TrainConfig)
    for word in (
        "actors.unroll",
        "learner.max_lag",
        "env.sticky_actions",
        "tmaze",
        "atari_qbert_rtrl",
        "rule: dense, leak, reference",
    ):
        assert word in text


def test_an_evaluation_is_checked_too():
    assert load_evaluate(["checkpoint=/tmp/x", "episodes=3"]).episodes == 3
    with pytest.raises(ConfigError, match="unknown option 'episode': did you mean episodes"):
        load_evaluate(["checkpoint=/tmp/x", "episode=3"])
    with pytest.raises(ConfigError, match="checkpoint"):
        load_evaluate([])


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "atari_breakout"),
        (["env=atari/pong"], "atari_pong"),
        (["env=gym/CartPole-v1", "network=mlp"], "gym_CartPole-v1"),
        (["env=tmaze"], "tmaze"),
        (["experiment=tmaze", "env.corridor=7"], "tmaze"),
        (["experiment=atari_qbert_rtrl", "env=atari/pong"], "atari_qbert_rtrl_atari_pong"),
        (["env=atari/pong", "name=mine"], "mine"),
    ],
)
def test_a_run_is_named_after_what_it_trains(words: list[str], name: str):
    assert load_train(words).name == name


@dataclass
class Parts:
    """A section as those have it whose parts may be the user's own."""

    name: str = "x"
    core_options: dict[str, Any] = field(default_factory=dict)


def test_any_option_that_is_a_dictionary_takes_keys_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("conf.options.TrainConfig", make_dataclass("Config", [("parts", Parts), ("seed", int)]))
    assert is_dict_option("parts.core_options")
    assert is_dict_option("+parts.core_options.size.inner")
    assert not is_dict_option("parts.core_option.size")
    assert not is_dict_option("parts.name")
    assert sections_with_name() == ["parts"]


def test_a_rule_of_the_users_own_is_a_name_where_ours_are_files():
    assert _translate("rule=my_pkg.rules:MyRule", Folder(), None) == ["rule.name='my_pkg.rules:MyRule'"]
    assert load_train(["rule=my_pkg.rules:MyRule"]).rule.name == "my_pkg.rules:MyRule"
    assert load_train(["network.core_options.keep_bias=2"]).network.core_options == {"keep_bias": 2}
    assert _translate("rule=tbptt", Folder(), None) == ["rule=tbptt"]
