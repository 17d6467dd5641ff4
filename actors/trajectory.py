"""What an actor saw and did, to be learned from elsewhere: all that its unroll was made of but the weights.

Rows 0..T are what the network saw, the last one of them to bootstrap from; what was done at row t, and what that brought, is what row
``t + 1`` says was done last. So that a learner that has the weights has the unroll, up to rounding (``replay.py``).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from actors.acting import Acting
from actors.rollout import Group, Rollout, Taken
from actors.stem import StepInput
from conf.schema import ActorsConfig
from envs.base import EnvSpec
from rtrl_core import ContributionHeader, CoreState, UnrollStatistics, carried
from rtrl_core.shapes import Bool, Float, Int, Shaped, Tensor


class Observations(NamedTuple):
    """Rows of observations. Of stacks of images each image is kept once: a stack shares all but its newest with the one before."""

    rows: Shaped[Tensor, "R B ..."]
    """Whole; or the images, ``[F, H, W]``."""
    places: Int[Tensor, "R B C"]
    """Of each channel of each stack, the number of its image; empty where the rows are whole."""

    @classmethod
    def whole(cls, observations: Shaped[Tensor, "R B ..."]) -> "Observations":
        return cls(observations, torch.empty(0, 0, 0, dtype=torch.int32))

    @classmethod
    def pack(cls, observations: Shaped[Tensor, "R B ..."], layout: str) -> "Observations":
        """Nothing is lost, whatever the channels are; as single images if that is less."""
        whole = cls.whole(observations)
        if layout != "CHW" or observations.shape[2] == 1:
            return whole
        images = _Images(observations)
        moved_on = (observations[1:, :, :-1] == observations[:-1, :, 1:]).flatten(2).all(-1)
        for row, moved in enumerate([torch.zeros_like(moved_on[0]), *moved_on]):
            for stream, shared in enumerate(moved.tolist()):
                images.look(row, stream, shared)
        if len(images.found) >= images.places.size:
            return whole
        return cls(observations[tuple(torch.tensor(images.found).T)], torch.from_numpy(images.places))

    def of(self, stream: int) -> Shaped[Tensor, "R ..."]:
        """Those of one stream, unpacked."""
        return self.rows[self.places[:, stream]] if len(self.places) else self.rows[:, stream]

    def unpack(self) -> Shaped[Tensor, "R B ..."]:
        return self.rows[self.places] if len(self.places) else self.rows


class _Images:
    """The different images of the stacks, which are looked at row by row."""

    def __init__(self, observations: Shaped[Tensor, "R B C ..."]) -> None:
        self.places = np.zeros(observations.shape[:3], dtype=np.int32)
        self.found: list[tuple[int, int, int]] = []
        """Row, stream and channel of each, by its number."""
        self._observations = observations

    def look(self, row: int, stream: int, shared: bool) -> None:
        """``shared`` says that all but the newest image are those of the row before."""
        places, newest = self.places[row, stream], self.places.shape[2] - 1
        if shared:
            places[:-1] = self.places[row - 1, stream, 1:]
            places[-1] = self._new(row, stream, newest)
            return
        for channel in range(newest + 1):
            known = self.places[row - 1, stream].tolist() if row else []
            places[channel] = self._number(row, stream, channel, [*known, *places[:channel].tolist()])

    def _number(self, row: int, stream: int, channel: int, known: list[int]) -> int:
        image = self._observations[row, stream, channel]
        same = (number for number in dict.fromkeys(known) if torch.equal(self._observations[self.found[number]], image))
        found = next(same, None)
        return self._new(row, stream, channel) if found is None else found

    def _new(self, row: int, stream: int, channel: int) -> int:
        self.found.append((row, stream, channel))
        return len(self.found) - 1


class Trajectory(NamedTuple):
    """``T`` transitions of ``B`` streams, on the CPU, and what the core carried before them."""

    observations: Observations
    """T + 1 rows."""
    instructions: Int[Tensor, "R B L"] | None
    last_rewards: Float[Tensor, "R B"]
    """Clipped."""
    last_actions: Shaped[Tensor, "R B ..."]
    is_first: Bool[Tensor, "R B"]
    terminated: Bool[Tensor, "T B"]
    truncated: Bool[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]
    noted: Float[Tensor, "T B"]
    """What the algorithm wants to know of acting: IMPALA ``log mu(a_t)``, R2D2 the error of ``Q(a_t)`` as far as it could be told then."""
    cut_places: Int[Tensor, "K 2"]
    """Row and stream, of the transitions whose episode was cut off and whose next row shows another's first observation."""
    cut_observations: Shaped[Tensor, "K ..."]
    """What would have been seen had it gone on."""
    cut_instructions: Int[Tensor, "K L"] | None
    before: CoreState
    """``c_0``, and ``S_0`` of a rule that carries one."""

    @property
    def num_steps(self) -> int:
        return self.terminated.shape[0]

    @property
    def num_envs(self) -> int:
        return self.terminated.shape[1]

    def step_input(self, observations: Shaped[Tensor, "R B ..."], rows: slice) -> StepInput:
        """What the network saw in these rows, one after the other as one batch."""
        return StepInput(
            observations[rows].flatten(0, 1),
            self.last_rewards[rows].flatten(0, 1),
            self.last_actions[rows].flatten(0, 1),
            self.is_first[rows].flatten(0, 1),
            None if self.instructions is None else self.instructions[rows].flatten(0, 1),
        )

    def cut_off(self) -> StepInput:
        """What would have been seen after the transitions of ``cut_places``."""
        row, stream = self.cut_places.unbind(1)
        return StepInput(
            self.cut_observations,
            self.last_rewards[row + 1, stream],
            self.last_actions[row + 1, stream],
            torch.zeros(len(row), dtype=torch.bool, device=row.device),
            self.cut_instructions,
        )


@dataclass(frozen=True, slots=True)
class TrajectoryContribution:
    """An unroll to be learned from where it arrives."""

    header: ContributionHeader
    """``policy_version`` is that of the weights that acted."""
    layout: str
    """``ParameterLayout.fingerprint`` of their network."""
    trajectory: Trajectory
    statistics: UnrollStatistics
    """Losses and targets are 0: whoever learns from it knows them."""
    inputs: Float[Tensor, "T B D"] | None = None
    """Core inputs as acting saw them, in bfloat16, where a state is to be computed anew from them."""

    @property
    def size_bytes(self) -> int:
        """Of all tensors: in proportion to T and B, whatever the network."""
        return carried.size_bytes((self.trajectory, self.inputs))


BYTES_OF_A_STEP = 24
"""Of a transition beside its observation: rewards, actions, flags, probabilities."""


def expected_bytes(spec: EnvSpec, options: ActorsConfig, carried_by_one: CoreState) -> int:
    """About how large a trajectory is, where stacks of images move on by one per step and few episodes end.

    Args:
        carried_by_one: what the core carries for one stream.
    """
    whole = math.prod(spec.observation_shape) * np.dtype(spec.observation_dtype).itemsize
    stacked = spec.layout == "CHW"
    row = (whole // spec.observation_shape[0] if stacked else whole) + 8 * spec.instruction_length + BYTES_OF_A_STEP
    first = whole if stacked else 0
    return options.streams * ((options.unroll + 1) * row + first + carried.size_bytes(carried_by_one))


def blank(spec: EnvSpec, options: ActorsConfig, before: CoreState) -> Trajectory:
    """Zeros in the shapes and types of a trajectory that is recorded, without ends, of which that one may have some, and with whole
    observations, of which that one may keep images."""
    streams = options.streams
    rows, steps = (options.unroll + 1, streams), (options.unroll, streams)
    observations = torch.zeros(*rows, *spec.observation_shape, dtype=getattr(torch, spec.observation_dtype))
    words = torch.zeros(*rows, spec.instruction_length, dtype=torch.int64) if spec.instruction_length else None
    action = torch.from_numpy(spec.actions.zeros(streams))
    flags = torch.zeros(steps, dtype=torch.bool)
    return Trajectory(
        Observations.whole(observations),
        words,
        torch.zeros(rows),
        action.expand(options.unroll + 1, *action.shape),
        torch.zeros(rows, dtype=torch.bool),
        flags,
        flags,
        flags,
        torch.zeros(steps),
        torch.empty(0, 2, dtype=torch.int64),
        observations[0, :0],
        None if words is None else words[0, :0],
        before,
    )


class Recorded(NamedTuple):
    """An unroll as it was played. What stands beside the trajectory is where the actor's network is."""

    trajectory: Trajectory
    """Nothing is noted yet."""
    inputs: Float[Tensor, "T B D"]
    """Of the core."""
    parameters: Float[Tensor, "T B A"]
    """Of the action distribution."""

    def noting(self, noted: Float[Tensor, "T B"]) -> Trajectory:
        return self.trajectory._replace(noted=noted.to(self.trajectory.is_first.device))

    @property
    def actions(self) -> Shaped[Tensor, "T B ..."]:
        return self.trajectory.last_actions[1:].to(self.parameters.device)


class Recorder:
    """Notes what an unroll's steps show, while they are taken.

    Args:
        groups: of the rollout that takes them.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._taken: list[list[_Row]] = [[] for _ in groups]
        self._cuts = _Cuts()

    def look(self, taken: Taken) -> None:
        """Before the next step of its group."""
        self._taken[taken.group.number].append(_Row.of(taken))
        self._cuts.look(taken)

    def recorded(self, before: CoreState) -> Recorded:
        """Once all steps have been taken. All of it is where the network is, and observations are whole.

        Args:
            before: what the core carried at the start; kept as it is.
        """
        seen = [
            [*(row.seen for row in rows), group.games.step_input()]
            for rows, group in zip(self._taken, self._groups, strict=True)
        ]
        example = seen[0][0]
        device = example.observation.device
        trajectory = Trajectory(
            Observations.whole(_column(seen, lambda step: step.observation)),
            None if example.instruction is None else _column(seen, lambda step: step.instruction),
            _column(seen, lambda step: step.last_reward),
            _column(seen, lambda step: step.last_action),
            _column(seen, lambda step: step.is_first),
            _column(self._taken, lambda row: row.terminated).to(device),
            _column(self._taken, lambda row: row.truncated).to(device),
            _column(self._taken, lambda row: row.valid).to(device),
            torch.empty(0, 0),
            *self._cuts.found(example),
            before,
        )
        inputs = _column(self._taken, lambda row: row.inputs)
        return Recorded(trajectory, inputs, _column(self._taken, lambda row: row.parameters))


def record(rollout: Rollout, acting: Acting) -> Recorded:
    """Takes the steps of an unroll, to be shipped: the trajectory is on the CPU, in memory of its own, and as small as it gets.

    Raises:
        EnvironmentFailure: if the environment died.
    """
    before = carried.map_leaves(_here, acting.network.core.inner(rollout.core))
    recorder = Recorder(rollout.groups)
    for taken in rollout.steps(acting):
        recorder.look(taken)
    recorded = recorder.recorded(before)
    trajectory = carried.to(recorded.trajectory, torch.device("cpu"))
    observations = Observations.pack(trajectory.observations.rows, rollout.spec.layout)
    return recorded._replace(trajectory=trajectory._replace(observations=observations))


class _Row(NamedTuple):
    """A step of a group of streams."""

    seen: StepInput
    inputs: Float[Tensor, "S D"]
    parameters: Float[Tensor, "S A"]
    terminated: Bool[Tensor, " S"]
    truncated: Bool[Tensor, " S"]
    valid: Bool[Tensor, " S"]

    @classmethod
    def of(cls, taken: Taken) -> "_Row":
        now = taken.now
        flags = (torch.from_numpy(flag) for flag in (now.terminated, now.truncated, now.valid))
        return cls(taken.seen, taken.inputs, taken.output.parameters, *flags)


R = TypeVar("R")


def _column(groups: Sequence[Sequence[R]], of: Callable[[R], Tensor | None]) -> Shaped[Tensor, "R B ..."]:
    """One thing of the rows of all groups, whose streams stand side by side."""
    found = [[of(row) for row in rows] for rows in groups]
    columns = [torch.stack([one for one in rows if one is not None]) for rows in found]
    return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)


class _Cuts:
    """The final observations of episodes that were cut off."""

    def __init__(self) -> None:
        self._places: list[Tensor] = []
        self._steps: list[StepInput] = []

    def look(self, taken: Taken) -> None:
        found = taken.group.games.cut_off()
        if found is None:
            return
        streams, step = found
        of = streams.nonzero().squeeze(1).cpu()
        self._places.append(torch.stack([torch.full_like(of, taken.t), taken.group.streams.start + of], dim=1))
        self._steps.append(step.of(streams))

    def found(self, example: StepInput) -> tuple[Tensor, Tensor, Tensor | None]:
        """Places, observations and instructions; of the shapes of ``example`` where there are none."""
        steps = self._steps or [example.of(slice(0, 0))]
        device = example.observation.device
        places = torch.cat(self._places).to(device) if self._places else torch.empty(0, 2, dtype=torch.int64).to(device)
        instructions = [step.instruction for step in steps if step.instruction is not None]
        return (
            places,
            torch.cat([step.observation for step in steps]),
            torch.cat(instructions) if instructions else None,
        )


def _here(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
