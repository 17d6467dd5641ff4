"""An unroll that more than one gradient is made of. Exact RTRL allows it: what the network saw, and the c_0 and S_0 that it came with, are
still in the actor.

    first pass    steps under theta_v                                        gradient at theta_v
    next ones     the same steps under theta_v+1, theta_v+2, ... (replay)    gradient at each, with importance weights
    the last      leaves c_T and S_T, of its own weights

The sensitivity stays that of the start until the last pass.
"""

from typing import Any

from actors.replay import ReplayedStem, replay
from actors.trajectory import Observations, Recorded, Trajectory
from actors.unroll import Unroll
from rtrl_core import CoreState, PolicyNetwork, carried
from rtrl_core.shapes import Float, Tensor


class KeptUnroll:
    """
    Args:
        trajectory: where the network is; it notes the log probabilities of the actions when they were taken.
        left: passes that are still to come.
    """

    def __init__(self, trajectory: Trajectory, left: int) -> None:
        self.trajectory, self.left = trajectory, left

    @classmethod
    def of(cls, recorded: Recorded, log_probabilities: Float[Tensor, "T B"], left: int) -> "KeptUnroll":
        return cls(recorded.noting(log_probabilities), left)

    def again(self, network: PolicyNetwork, stem: ReplayedStem) -> Unroll:
        """One more pass, under the network's present weights."""
        self.left -= 1
        return replay(network, self.trajectory, stem)

    def get_state(self) -> dict[str, Any]:
        """All but the sensitivity, which the rollout has."""
        before = CoreState(self.trajectory.before.cell, None)
        return {"left": self.left, "trajectory": carried.save(self.trajectory._replace(before=before))}

    @classmethod
    def from_state(cls, state: dict[str, Any], core: CoreState) -> "KeptUnroll":
        """
        Args:
            core: what the rollout carries: the cell of the end, the sensitivity of the start.

        Raises:
            ValueError: if what was saved is of another network.
        """
        saved = dict(state["trajectory"])
        cell = carried.load(core.cell, saved.pop("before")["cell"])
        device = next(carried.leaves(core.cell)).device
        observations = Observations(**saved.pop("observations"))
        # What was nothing is an empty dictionary.
        rows: dict[str, Any] = {name: None if isinstance(value, dict) else value for name, value in saved.items()}
        trajectory = Trajectory(observations=observations, **rows, before=CoreState(None, None))
        return cls(carried.to(trajectory, device)._replace(before=core._replace(cell=cell)), state["left"])
