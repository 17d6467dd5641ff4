"""Words of every algorithm that a fleet of actors trains with, for tests of what is the same for all. What is not R2AC's is left to
``make test-long``."""

import pytest

IMPALA = ("algorithm=impala", "rule=tbptt")
R2D2 = (
    *("algorithm=r2d2", "rule=tbptt", "network.head_sizes=[8]", "algorithm.options.burn_in=5"),
    *("algorithm.options.length=10", "algorithm.options.batch_sequences=4", "algorithm.options.min_sequences=16"),
    "algorithm.options.target_period=5",
)
"""Of small sequences that begin every five steps."""
KNOWS = {(): "policy_loss", IMPALA: "importance_mean", R2D2: "td_error"}
"""What the rows of each have."""

with_every_algorithm = pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param((), id="r2ac"),
        pytest.param(IMPALA, id="impala", marks=pytest.mark.soak),
        pytest.param(R2D2, id="r2d2", marks=pytest.mark.soak),
    ],
)
