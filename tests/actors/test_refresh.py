"""``rule.refresh`` in a whole actor: acting and learning begin where the present weights would be; what does not fit is one line."""

from pathlib import Path

import pytest
import torch
from toy_actor import make_actor, present_weights

from conf.knobs import ConfigError
from conf.load import config_hash, load_train
from conf.schema import RuleConfig
from envs.tmaze import TMaze
from r2ac.commands import train as training_program
from r2ac.training.parts import require_all_parts
from rtrl_core import RefreshedCore, WeightsSnapshot, carried

UNROLL = 3


def actor_with(refresh: int, every: int = 1, corridor: int = 5):
    return make_actor(
        TMaze(4, 1, corridor=corridor),
        unroll=UNROLL,
        rule_config=RuleConfig("segment", refresh=refresh, refresh_every=every),
    )


def test_an_actor_acts_and_learns_from_what_the_new_weights_would_have_left():
    # Games of at most six steps are younger than twelve: everything is as from the start of each game under the new weights.
    actor, plain = actor_with(12), actor_with(0)
    assert actor.layout == plain.layout
    inputs, is_first = [], []
    for version in range(6):
        start = present_weights(actor, version)
        actor.unroll(WeightsSnapshot(version, start.layout, start.vector + 0.05 * torch.randn_like(start.vector)))
        before = actor.rollout.unroll.before
        assert isinstance(core := actor.network.core, RefreshedCore)
        if version:
            plain.parameters.load(actor.parameters.vector)
            with torch.no_grad():
                _, expected = plain.network.core(torch.cat(inputs), plain.network.initial_state(4), torch.cat(is_first))
            assert torch.allclose(core.inner(before).cell, expected.cell, atol=1e-6)
        inputs.append(actor.rollout.unroll.inputs.clone())
        is_first.append(actor.rollout.unroll.is_first.clone())


@pytest.mark.seconds
def test_with_weights_that_stand_still_the_gradients_are_those_without_a_refresh():
    refreshed, plain = actor_with(6, every=2, corridor=20), actor_with(0, corridor=20)
    for version in range(5):  # each version is new, the weights are not
        ours, theirs = (actor.unroll(present_weights(actor, version)) for actor in (refreshed, plain))
        torch.testing.assert_close(ours.gradient, theirs.gradient, rtol=1e-4, atol=1e-6)
        assert ours.statistics.sensitivity_norm == pytest.approx(theirs.statistics.sensitivity_norm, rel=1e-4)


def test_a_stream_that_ran_away_begins_anew_with_its_anchor_and_the_others_go_on():
    actor = actor_with(6, corridor=20)
    for version in range(3):
        actor.unroll(present_weights(actor, version))
    for leaf in carried.leaves(actor.rollout.core.sensitivity.anchor):
        leaf[1] = torch.nan
    statistics = actor.unroll(present_weights(actor)).statistics
    assert statistics.streams_reset == 1
    assert actor.rollout.core.finite_streams().all()
    assert not any(leaf[1].any() for leaf in carried.leaves(actor.rollout.core))
    assert actor.unroll(present_weights(actor, 4)).gradient.isfinite().all()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["rule.refresh=100", "actors.unroll=1"],
            "rule.refresh=100 needs unrolls: .* raise actors.unroll to 2 or more",
        ),
        (["rule.refresh=9", "actors.unroll=10"], "shorter than an unroll, actors.unroll=10: give 10 or more, or 0"),
        (["rule.refresh=50", "rule=tbptt"], "rule tbptt carries no sensitivity to refresh; leave rule.refresh=0"),
        (["rule.refresh=50", "network.core=feedforward"], "network.core=feedforward carries no sensitivity to refresh"),
        (["rule.refresh=50", "rule.refresh_every=0"], "rule.refresh_every must be at least 1, got 0"),
        (["rule.refresh=-1"], "rule.refresh must be at least 0, got -1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_anything_is_built(words: list[str], line: str):
    with pytest.raises(ConfigError, match=line) as error:
        require_all_parts(load_train(["experiment=tmaze", *words]))
    assert "\n" not in str(error.value)


def test_runs_without_a_refresh_have_the_hash_that_they_had_before_there_was_one():
    plain = config_hash(load_train(["experiment=tmaze"]))
    assert config_hash(load_train(["experiment=tmaze", "rule.refresh=0"])) == plain
    assert config_hash(load_train(["experiment=tmaze", "rule.refresh=50"])) != plain


@pytest.mark.slow
def test_a_run_goes_on_in_its_games_and_begins_new_ones_where_what_is_kept_changes(tmp_path: Path, capsys):
    words = [
        *("experiment=tmaze", "env.corridor=6", "fleet=local", "fleet.num_actors=1", "actors.num_envs=4"),
        *("logging=quiet", "network.num_units=6", "learner.mode=sync", f"run_dir={tmp_path}/run"),
    ]
    for total, refresh, unroll, anew in ((120, 6, 3, False), (240, 6, 3, False), (360, 6, 4, True)):
        sizes = [f"total_steps={total}", f"rule.refresh={refresh}", f"actors.unroll={unroll}", "rule.refresh_every=2"]
        assert training_program.main([*words, *sizes]) == 0
        assert ("actors begin new games" in capsys.readouterr().err) == anew, total
