"""Every core by name through a whole actor, with everything on at once: layers, a refresh, fidelity measured at each unroll."""

import pytest
import torch
from local_run import double_precision
from toy_actor import fidelity_errors, make_actor, present_weights

from actors.actor import Actor
from conf.schema import NetworkConfig, RuleConfig
from envs.tmaze import TMaze
from rtrl_core import carried
from rtrl_core.cells import RECURRENT_CELLS
from rtrl_core.cores import FEEDFORWARD, core_names

ALSO_IN_SHORT = ("elstm", "slstm", "lru", "lstm", "retnet", "ema")
"""The other cores in the long tests only."""


def cases() -> list[tuple[str, str, int, str, int, int]]:
    """Core, rule, layers, credit across them, steps of an unroll, window of the refresh."""
    found: list[tuple[str, str, int, str, int, int]] = []
    for core in core_names():
        carries = core not in (FEEDFORWARD, "ema")
        rule = "snap1" if core in RECURRENT_CELLS else "segment"
        found.append((core, rule, 1 if core == FEEDFORWARD else 2, "local", 3, 6 if carries else 0))
    return [
        *found,
        ("elstm", "segment", 2, "exact", 3, 6),
        ("lru", "segment", 2, "exact", 1, 0),
        ("gru", "leak", 1, "local", 1, 0),
    ]


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("core", "rule", "layers", "across", "unroll", "refresh"),
    [pytest.param(*case, marks=[] if case[0] in ALSO_IN_SHORT else pytest.mark.soak) for case in cases()],
)
def test_while_weights_stand_still_the_credit_of_every_core_is_that_of_a_fresh_computation(
    core: str, rule: str, layers: int, across: str, unroll: int, refresh: int
):
    actor = make_actor(
        TMaze(4, 1, corridor=6),
        unroll=unroll,
        network=NetworkConfig(encoder="none", num_units=8, core=core, layers=layers),
        rule_config=RuleConfig(rule, across_layers=across, refresh=refresh, refresh_every=2),
        fidelity_every=1,
        fidelity_steps=60,
    )
    weights = present_weights(actor)
    errors = fidelity_errors(actor)
    if actor.network.core.carries_sensitivity:
        assert errors
        assert max(errors) < 1e-4
    assert torch.equal(weights.vector, actor.parameters.vector)


@pytest.mark.seconds
@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("activations", ["retain", "recompute"])
@pytest.mark.parametrize(
    ("core", "rule", "layers", "across", "unroll"),
    [
        pytest.param(*case[:5], marks=[] if case[0] in ("elstm", "lstm", "retnet") else pytest.mark.soak)
        for case in cases()
    ],
)
def test_while_weights_stand_still_every_pass_is_the_first_one_and_leaves_what_a_single_one_would(
    core: str, rule: str, layers: int, across: str, unroll: int, activations: str, critic: str
):
    def actor(passes: int) -> Actor:
        network = NetworkConfig(encoder="mlp", features=5, num_units=8, core=core, layers=layers, critic=critic)
        return make_actor(
            TMaze(3, 1, corridor=4),
            unroll=unroll,
            network=network,
            rule_config=RuleConfig(rule, across_layers=across),
            activations=activations,
            passes=passes,
        )

    with double_precision():
        several, single = actor(3), actor(1)
        weights = present_weights(single)
        for _ in range(4):
            expected = single.unroll(weights).gradient
            scale = expected.abs().max()
            for _ in range(3):
                found = several.unroll(weights).gradient
                torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-10)
            pairs = zip(carried.leaves(several.rollout.core), carried.leaves(single.rollout.core), strict=True)
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
