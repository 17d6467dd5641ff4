"""The options of R2D2."""

from dataclasses import dataclass

LARGEST_COUNT = 10**9
LARGEST_BYTES = 2**60


@dataclass(frozen=True, slots=True)
class QOptions:
    """Recurrent replay (Kapturowski et al. 2019, "R2D2"). A sequence begins at every unroll of an actor; the defaults are the published
    ones, with ``actors.unroll=40``."""

    burn_in: int = 40
    """Steps at the start of a sequence that only lead to the state that the rest begins with; a multiple of ``actors.unroll``."""
    length: int = 80
    """Steps of a sequence that are learned from; a multiple of ``actors.unroll``."""
    burn_in_gradient: bool = False
    """Lets the gradient go on through the burn-in."""
    batch_sequences: int = 64
    """Sequences of an update."""
    n_step: int = 5
    replay_ratio: float = 0.8
    """Steps that are learned from for each one that is collected."""
    replay_bytes: int = 2_000_000_000
    """Of the learner's memory; what is oldest goes."""
    min_sequences: int = 5000
    """In the replay before anything is learned, or as many as there is room for."""
    priority_exponent: float = 0.9
    importance_exponent: float = 0.6
    max_share: float = 0.9
    """eta: of the largest error in a priority; the rest is of the mean."""
    target_period: int = 2500
    """Updates between two copies of the weights into the target network."""
    epsilon_base: float = 0.4
    """Stream i of N acts by chance with probability ``epsilon_base ** (1 + epsilon_exponent * i / (N - 1))``."""
    epsilon_exponent: float = 7.0
    checkpoint_replay: bool = False
    """Whether checkpoints hold the replay. Without it a run that goes on fills it anew before it learns."""

    def __post_init__(self) -> None:
        counts = {
            "length": 1,
            "batch_sequences": 1,
            "n_step": 1,
            "min_sequences": 1,
            "target_period": 1,
            "replay_bytes": 1,
            "burn_in": 0,
        }
        for option, least in counts.items():
            largest = LARGEST_BYTES if option == "replay_bytes" else LARGEST_COUNT
            if not least <= getattr(self, option) <= largest:
                raise ValueError(f"{option} must be from {least} to {largest}, got {getattr(self, option)}")
        for option in ("priority_exponent", "importance_exponent", "max_share", "epsilon_base"):
            if not 0 <= getattr(self, option) <= 1:
                raise ValueError(f"{option} must be from 0 to 1, got {getattr(self, option)}")
        for option in ("replay_ratio", "epsilon_exponent"):
            if not 0 <= getattr(self, option) <= 1000:
                raise ValueError(f"{option} must be from 0 to 1000, got {getattr(self, option)}")
