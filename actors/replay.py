"""A trajectory under other weights than those that acted: from what was seen to what an unroll is, as if these had taken the same actions.

    observations -> stem, many steps at once -> core input x_t -> cell c_t, from the c_0 that was shipped -> policy, value        T times

It is what acting computes (``rollout.py``), without the games. With the weights that acted it gives the unroll that they left.
"""

from collections.abc import Sequence

import torch

from actors.stem import Stem, StepInput
from actors.trajectory import Trajectory
from actors.unroll import Unroll
from rtrl_core import PolicyNetwork, carried
from rtrl_core.shapes import Float, Shaped, Tensor


class ReplayedStem:
    """The stem of a whole unroll, ``steps_at_once`` steps in one pass, as a ``Stem`` towards whoever goes backward.

    Args:
        stem: that has the passes: it keeps the activations of each, or the observations.
    """

    def __init__(self, stem: Stem, steps_at_once: int) -> None:
        self._stem = stem
        self._at_once = max(1, steps_at_once)

    def forward(self, trajectory: Trajectory, observations: Shaped[Tensor, "R B ..."]) -> Float[Tensor, "T B D"]:
        steps, streams = trajectory.num_steps, trajectory.num_envs
        parts = [
            self._stem.inputs(trajectory.step_input(observations, slice(start, min(steps, start + self._at_once))))
            for start in range(0, steps, self._at_once)
        ]
        return torch.cat(parts).view(steps, streams, -1)

    def look(self, step: StepInput) -> Float[Tensor, "B D"]:
        return self._stem.look(step)

    def backward(self, gradient: Float[Tensor, "T B D"]) -> None:
        self._stem.backward([part.flatten(0, 1) for part in gradient.split(self._at_once)])


def replay(network: PolicyNetwork, trajectory: Trajectory, stem: ReplayedStem) -> Unroll:
    """The unroll of ``trajectory`` under the network's weights.

    Args:
        trajectory: on the network's device.
        stem: keeps of the steps what its backward pass will need.
    """
    steps = trajectory.num_steps
    observations = trajectory.observations.unpack()
    actions, is_first = trajectory.last_actions[1:], trajectory.is_first
    unroll = Unroll.empty(steps, network.input_size, actions[0], trajectory.before)
    unroll.inputs = stem.forward(trajectory, observations)
    unroll.is_first, unroll.actions = is_first[:-1], actions
    unroll.rewards = trajectory.last_rewards[1:]
    unroll.terminated, unroll.truncated, unroll.valid = (
        trajectory.terminated,
        trajectory.truncated,
        trajectory.valid,
    )
    cells, cell = [], trajectory.before.cell
    for t in range(steps):
        output, cell = network.act(unroll.inputs[t], cell, is_first[t])
        unroll.values[t] = output.values
        unroll.log_ratios[t] = network.distribution.log_prob(output.parameters, actions[t]) - trajectory.log_probs[t]
        cells.append(cell)
    last = trajectory.step_input(observations, slice(steps, steps + 1))
    beyond = network.act(stem.look(last), cell, last.is_first)[0].values
    unroll.next_values = torch.cat([unroll.values[1:], beyond.unsqueeze(0)])
    if len(trajectory.cut_places):
        rows, streams = trajectory.cut_places.unbind(1)
        step = trajectory.cut_off()
        found = network.act(stem.look(step), _gathered(cells, rows, streams), step.is_first)[0].values
        unroll.next_values[rows, streams] = found
    return unroll


def _gathered(cells: Sequence[carried.Carried], rows: Tensor, streams: Tensor) -> carried.Carried:
    """The states of these streams after these steps."""
    parts = [carried.select(cells[row], streams[i : i + 1]) for i, row in enumerate(rows.tolist())]
    leaves = zip(*(carried.leaves(part) for part in parts), strict=True)
    return carried.rebuild(parts[0], [torch.cat(tensors) for tensors in leaves])
