"""A trajectory under other weights than those that acted: from what was seen to what an unroll is, as if these had taken the same actions.

    observations -> stem, many steps at once -> core input x_t -> cell c_t, from the c_0 that was shipped -> policy, value        T times

It is what acting computes (``rollout.py``), without the games. With the weights that acted it gives the unroll that they left.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from actors.stem import Stem, StepInput
from actors.trajectory import Trajectory
from actors.unroll import Unroll
from rtrl_core import PolicyNetwork, carried
from rtrl_core.shapes import Float, Tensor

Steps = Callable[[slice], StepInput]
"""What the network saw in some rows, one after the other as one batch."""


class ReplayedStem:
    """The stem of many steps, ``steps_at_once`` in one pass, as a ``Stem`` towards whoever goes backward.

    Args:
        stem: that has the passes: it keeps the activations of each, or the observations.
    """

    def __init__(self, stem: Stem, steps_at_once: int) -> None:
        self._stem = stem
        self._at_once = max(1, steps_at_once)

    def forward(self, steps: Steps, rows: range) -> Float[Tensor, "T B D"]:
        """Of these rows, to be gone back through."""
        return self._along(self._stem.inputs, steps, rows)

    def look_along(self, steps: Steps, rows: range) -> Float[Tensor, "T B D"]:
        """Of these rows, without a way back."""
        return self._along(self._stem.look, steps, rows)

    def _along(self, one_pass: Callable[[StepInput], Tensor], steps: Steps, rows: range) -> Tensor:
        starts = range(rows.start, rows.stop, self._at_once)
        parts = [one_pass(steps(slice(start, min(rows.stop, start + self._at_once)))) for start in starts]
        return torch.cat(parts).unflatten(0, (len(rows), -1))

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
    seen = partial(trajectory.step_input, trajectory.observations.unpack())
    actions, is_first = trajectory.last_actions[1:], trajectory.is_first
    unroll = Unroll.empty(steps, network.input_size, actions[0], trajectory.before)
    unroll.inputs = stem.forward(seen, range(steps))
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
        unroll.log_ratios[t] = network.distribution.log_prob(output.parameters, actions[t]) - trajectory.noted[t]
        cells.append(cell)
    last = seen(slice(steps, steps + 1))
    beyond = network.act(stem.look(last), cell, last.is_first)[0].values
    unroll.next_values = torch.cat([unroll.values[1:], beyond.unsqueeze(0)])
    if len(trajectory.cut_places):
        rows, streams = trajectory.cut_places.unbind(1)
        step = trajectory.cut_off()
        found = network.act(stem.look(step), gathered(cells, rows, streams), step.is_first)[0].values
        unroll.next_values[rows, streams] = found
    return unroll


def gathered(cells: Sequence[carried.Carried], rows: Tensor, streams: Tensor) -> carried.Carried:
    """The states of these streams after these steps."""
    return carried.joined([carried.select(cells[row], streams[i : i + 1]) for i, row in enumerate(rows.tolist())])
