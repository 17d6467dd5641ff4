"""Every core by name through a whole actor, with everything on at once: layers, a refresh, fidelity measured at each unroll."""

import pytest
import torch
from toy_actor import fidelity_errors, make_actor, present_weights

from conf.schema import NetworkConfig, RuleConfig
from envs.tmaze import TMaze
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
