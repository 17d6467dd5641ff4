"""Whether the encoder still learns: where its features have grown until the core's gates only are open or shut, or its own units have all
died, no gradient comes back to it, and else only a low return shows that."""

from r2ac.monitoring.metrics import Row

VANISHED = 1e-4
"""Share of the whole gradient's norm below which the encoder's is none."""
ROWS = 3
"""In a row, after which it is said."""
SENTENCE = (
    "the encoder gets no gradient any more, so it learns nothing: updates were too large for it, or too late (policy_lag_mean), until its "
    "features saturated the core (core_inputs_rms) or were all zero. Go on from an older checkpoint, or begin anew, with a lower "
    "learner.learning_rate or learner.target_lag, batch_segments=null, and standardised pixels (network.standardise_steps; docs/tuning.md)"
)


class EncoderWatch:
    """Of one attempt at a run. An encoder that never had a gradient is frozen, or there is none."""

    def __init__(self) -> None:
        self._has_learned = False
        self._rows = 0

    def look(self, row: Row) -> str | None:
        """What is to be said of the newest log row, once, until the gradient comes back."""
        whole, stem = row.get("gradient_norm"), row.get("gradient_norm_stem")
        if whole is None or stem is None or whole == 0:
            return None
        if stem >= VANISHED * whole:
            self._has_learned, self._rows = True, 0
            return None
        self._rows += self._has_learned
        return SENTENCE if self._rows == ROWS else None
