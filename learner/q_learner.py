"""The learner of R2D2: what arrives is kept; what is learned from is drawn from it.

trajectories -> replay -> sequences -> burn-in, online and target network -> errors of n-step double Q -> gradient, priorities
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from actors.build import build_seeded_network
from actors.gradients import is_representable
from actors.precision import autocast_type, require_device
from actors.replay import ReplayedStem, gathered
from actors.stem import FrozenStem, StemPass, StepInput, choose_stem, rows_at_once
from actors.trajectory import TrajectoryContribution, blank
from conf.knobs import ConfigError
from conf.schema import LearnerConfig, TrainConfig
from envs.base import Discrete, EnvSpec
from learner.base_learner import BaseLearner
from learner.chunks import Kept
from learner.judge import Judgement, name_of
from learner.memory import total_memory
from learner.q_options import QOptions
from learner.receipts import Counters, RoundEnd, Update, Verdict
from learner.sequence_replay import Drawn, Past, SequenceReplay, Sequences
from rtrl_core import CoreState, FlatParameters, ParameterLayout, PolicyNetwork, UnrollStatistics, carried
from rtrl_core.q_values import n_step_targets, priorities, rescaled, unscaled
from rtrl_core.shapes import Bool, Float, Tensor

LARGEST_SHARE_OF_MEMORY = 0.8
"""Of the machine's, that a replay may have."""


class Errors(NamedTuple):
    """Of the steps of sequences that are learned from."""

    of_steps: Float[Tensor, "M S"]
    """Target minus ``Q(a_t)``, in units of the rescaled values; under autograd."""
    valid: Bool[Tensor, "M S"]
    inputs: Float[Tensor, "R S D"]
    """Of the core, from where the gradient begins."""
    taken: Float[Tensor, "M S"]
    """``Q(a_t)``."""


class QLearner(BaseLearner[TrajectoryContribution]):
    """Trajectories to weights.

    Args:
        config: of the run; sized.
        vector: initial weights, anywhere.

    Raises:
        ConfigError: if the device is not there.
    """

    def __init__(
        self,
        config: TrainConfig,
        options: QOptions,
        spec: EnvSpec,
        vector: Float[Tensor, " parameters"],
        *,
        device: str,
    ) -> None:
        self.device = require_device("learner.device", device)
        self._network, self._parameters = self._copy_of(config, spec, vector)
        self._target, self._target_parameters = self._copy_of(config, spec, vector)
        super().__init__(
            config.learner, self._parameters.layout, self._parameters.vector, total_steps=config.total_steps
        )
        self._options, self._loss, self._actors, self._spec = options, config.loss, config.actors, spec
        self._in_rounds = config.learner.mode != "async"
        self._owed = 0.0
        """Steps that are still to be learned from."""
        unroll = config.actors.unroll
        self.replay = SequenceReplay(
            streams=config.actors.streams,
            max_bytes=options.replay_bytes,
            chunks=(options.burn_in + options.length) // unroll,
            burn_in=options.burn_in // unroll,
            past=config.rule.refresh // unroll,
            exponent=options.priority_exponent,
            correction=options.importance_exponent,
            seed=config.seed,
        )
        self._stem: ReplayedStem | None = None

    def _copy_of(self, config: TrainConfig, spec: EnvSpec, vector: Tensor) -> tuple[PolicyNetwork, FlatParameters]:
        network = build_seeded_network(config.network, config.rule, spec, config.seed).to(self.device)
        parameters = FlatParameters(network)
        parameters.load(vector)
        return network, parameters

    def _learn(self, contribution: TrajectoryContribution, judgement: Judgement) -> tuple[Judgement, UnrollStatistics]:
        trajectory = contribution.trajectory
        if trajectory.valid.any() and not trajectory.noted[trajectory.valid].isfinite().any():
            reason = f"{name_of(contribution.header)} was played by values that are not finite"
            return Judgement(Verdict.REFUSED, reason, 0.0), contribution.statistics
        self.replay.add(contribution)
        if len(self.replay) >= self._options.min_sequences or self.replay.forgets:
            self._owed += self._options.replay_ratio * contribution.header.num_steps
        return judgement, contribution.statistics

    def _step_if_due(self) -> Update | None:
        return None if self._in_rounds else self._updates()

    def finish_round(self) -> RoundEnd:
        started = time.perf_counter()
        update = self._updates()
        return RoundEnd(update, replace(self.counters), time.perf_counter() - started)

    def _updates(self) -> Update | None:
        """As many as are owed: a learner that is slow takes its time here, and actors wait for it."""
        steps, updates = self._options.batch_sequences * self._options.length, []
        while self._owed >= steps:
            self._owed -= steps
            if len(self.replay) and (update := self._update_from_replay()) is not None:
                updates.append(update)
        return _mean(updates)

    def _update_from_replay(self) -> Update | None:
        """``None`` if its gradient is not finite: what was drawn is then not drawn again where its errors are not."""
        drawn = self.replay.draw(self._options.batch_sequences)
        errors = self._differentiate(drawn)
        found, sizes = errors.of_steps.detach(), errors.of_steps.detach().abs()
        self.replay.update(drawn, priorities(found, errors.valid, self._options.max_share).cpu())
        if not is_representable(self._parameters.gradient):
            return None
        count = errors.valid.sum().clamp(min=1)
        gauges = {
            "td_error": float(torch.where(errors.valid, sizes, 0).sum() / count),
            "q_value": float(torch.where(errors.valid, errors.taken.detach(), 0).sum() / count),
            "replay_sequences": float(len(self.replay)),
            "replay_bytes": float(self.replay.size_bytes),
            "replay_lag_mean": self.counters.version - float(drawn.versions.mean()),
        }
        update = self._update(self._parameters.gradient, gauges)
        if self.counters.updates % self._options.target_period == 0:
            self._target_parameters.load(self._vector)
        return update

    def _differentiate(self, drawn: Drawn) -> Errors:
        """Overwrites the gradient: of half the squared errors, times their weights, summed over steps, averaged over sequences."""
        weights = drawn.weights.to(self.device)
        self._parameters.gradient.zero_()
        errors = self.errors(carried.to(drawn.sequences, self.device), drawn.pasts)
        squares = torch.where(errors.valid, errors.of_steps.square(), 0).sum(0)
        loss = 0.5 * (squares * weights.to(squares.dtype)).mean()
        loss.backward()
        assert errors.inputs.grad is not None
        assert self._stem is not None
        self._stem.backward(errors.inputs.grad)
        return errors

    def errors(self, sequences: Sequences, pasts: Sequence[Past | None]) -> Errors:
        """Under the present weights.

        Args:
            sequences: on the learner's device.
            pasts: of each sequence, where the state that it begins with is to be computed anew; else empty.
        """
        burn_in, last = self._options.burn_in, sequences.terminated.shape[0]
        seen = partial(_step_input, sequences)
        stem = self._stem_for(sequences)
        start = 0 if self._options.burn_in_gradient else burn_in
        state = _begun(self._network, sequences, pasts)
        if start:
            leading = stem.look_along(seen, range(start))
            state = self._network.core.advance(leading, state, sequences.is_first[:start])
        inputs = stem.forward(seen, range(start, last + 1)).requires_grad_()
        q = self._network.unroll(inputs, state, sequences.is_first[start:])[0].parameters[burn_in - start :]
        best = q.detach().argmax(-1, keepdim=True)
        with torch.no_grad():
            theirs = self._target_stem().look_along(seen, range(last + 1))
            target_state = _begun(self._target, sequences, pasts)
            target_q = self._target.unroll(theirs, target_state, sequences.is_first)[0].parameters[burn_in:]
            following = target_q.gather(-1, best).squeeze(-1)[1:]
            ends = sequences.cut_places[:, 0] >= burn_in
            if ends.any():
                places, step = sequences.cut_places[ends], _cut_off(sequences, ends)
                ours = _q_after(self._network, stem, inputs.detach(), state, sequences.is_first, places, start, step)
                other = _q_after(
                    self._target, self._target_stem(), theirs, target_state, sequences.is_first, places, 0, step
                )
                found = other.gather(-1, ours.argmax(-1, keepdim=True)).squeeze(-1)
                following[places[:, 0] - burn_in, places[:, 1]] = found
        valid = sequences.valid[burn_in:]
        targets = n_step_targets(
            rewards=sequences.last_rewards[burn_in + 1 :].to(following.dtype),
            next_values=unscaled(following),
            terminated=sequences.terminated[burn_in:],
            truncated=sequences.truncated[burn_in:],
            valid=valid,
            discount=self._loss.discount,
            steps=self._options.n_step,
        )
        taken = q[:-1].gather(-1, sequences.last_actions[burn_in + 1 :].unsqueeze(-1)).squeeze(-1)
        return Errors(rescaled(targets) - taken, valid, inputs, taken)

    def _stem_for(self, sequences: Sequences) -> ReplayedStem:
        """Made when the first sequences are there, whose size it depends on."""
        if self._stem is None:
            options = self._actors
            stem = choose_stem(
                self._network,
                activations=options.activations,
                budget_bytes=options.activation_budget_bytes,
                autocast=autocast_type(options.autocast, self.device),
                passes=len(sequences.is_first),
                example=_step_input(sequences, slice(0, 1)),
            )
            self._stem = ReplayedStem(stem, rows_at_once(self.device) // sequences.is_first.shape[1])
        return self._stem

    def _target_stem(self) -> ReplayedStem:
        autocast = autocast_type(self._actors.autocast, self.device)
        at_once = rows_at_once(self.device) // self._options.batch_sequences
        return ReplayedStem(FrozenStem(StemPass(self._target, autocast)), at_once)

    def get_state(self) -> dict[str, Any]:
        state = {
            **super().get_state(),
            "target": self._target_parameters.vector.to("cpu", copy=True),
            "owed": self._owed,
        }
        if self._options.checkpoint_replay:
            state["replay"] = self.replay.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._target_parameters.load(state["target"])
        if "replay" in state and self._options.checkpoint_replay:
            self._continue_replay(state["replay"])
            self._owed = state["owed"]

    def _continue_replay(self, state: dict[str, Any]) -> None:
        before = carried.to(self._network.initial_state(self._actors.streams), "cpu")
        trajectory = blank(self._spec, self._actors, before)
        steps = trajectory.terminated.shape
        inputs = torch.empty(*steps, self._network.input_size, dtype=torch.bfloat16) if self.replay.looks_back else None
        actions = self._spec.actions
        assert isinstance(actions, Discrete)
        try:
            self.replay.set_state(state, Kept(trajectory, inputs), actions.num_actions)
        except ValueError as error:
            raise ConfigError(
                f"the checkpoint's replay cannot be used: {error}; go on without it with algorithm.options.checkpoint_replay=false"
            ) from None

    def continue_from(self, last: Counters) -> None:
        super().continue_from(last)
        self._owed = 0.0


def _mean(updates: Sequence[Update]) -> Update | None:
    """Several updates as one."""
    if not updates:
        return None

    def averaged(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    last = updates[-1]
    return Update(
        last.learning_rate,
        averaged([update.gradient_norm for update in updates]),
        {part: averaged([update.part_norms[part] for update in updates]) for part in last.part_norms},
        {name: averaged([update.gauges[name] for update in updates]) for name in last.gauges},
    )


def _step_input(sequences: Sequences, rows: slice) -> StepInput:
    words = sequences.instructions
    return StepInput(
        sequences.observations[rows].flatten(0, 1),
        sequences.last_rewards[rows].flatten(0, 1),
        sequences.last_actions[rows].flatten(0, 1),
        sequences.is_first[rows].flatten(0, 1),
        None if words is None else words[rows].flatten(0, 1),
    )


def _cut_off(sequences: Sequences, which: Bool[Tensor, " K"]) -> StepInput:
    """What would have been seen after these ends."""
    row, of = sequences.cut_places[which].unbind(1)
    words = sequences.cut_instructions
    return StepInput(
        sequences.cut_observations[which],
        sequences.last_rewards[row + 1, of],
        sequences.last_actions[row + 1, of],
        torch.zeros_like(row, dtype=torch.bool),
        None if words is None else words[which],
    )


def _q_after(
    network: PolicyNetwork,
    stem: ReplayedStem,
    inputs: Tensor,
    state: CoreState,
    is_first: Tensor,
    places: Tensor,
    start: int,
    step: StepInput,
) -> Float[Tensor, "K A"]:
    """Values of ``step``, which followed these places. ``inputs`` begin in row ``start``, with ``state``."""
    cells, cell = [], state.cell
    for row in range(start, int(places[:, 0].max()) + 1):
        _, cell = network.core.step(inputs[row - start], cell, is_first[row])
        cells.append(cell)
    there = gathered(cells, places[:, 0] - start, places[:, 1])
    return network.act(stem.look(step), there, step.is_first)[0].parameters


@torch.no_grad()
def _begun(network: PolicyNetwork, sequences: Sequences, pasts: Sequence[Past | None]) -> CoreState:
    """What sequences begin with: as it was stored, or where something of the past is kept, as this network comes out of it."""
    stored = sequences.before
    if not any(pasts):
        return stored
    states = []
    for number, past in enumerate(pasts):
        mine = torch.tensor([number], device=sequences.is_first.device)
        if past is None:
            states.append(carried.select(stored, mine))
            continue
        of = carried.to(past, sequences.is_first.device)
        inputs = of.inputs.to(next(network.parameters()).dtype).unsqueeze(1)
        states.append(network.core.advance(inputs, of.before, of.is_first.unsqueeze(1)))
    return carried.joined(states)


@dataclass(frozen=True, slots=True)
class QPlan:
    """How to build a ``QLearner``, here or in a process of its own: see ``LearnerPlan``."""

    run: TrainConfig
    options: QOptions
    spec: EnvSpec
    layout: ParameterLayout

    @property
    def config(self) -> LearnerConfig:
        return self.run.learner

    def begin(self, vector: Float[Tensor, " parameters"], device: str | None = None) -> QLearner:
        """A new learner with these weights."""
        return QLearner(self.run, self.options, self.spec, vector, device=device or self.config.device)

    def first_state(self, vector: Float[Tensor, " parameters"]) -> dict[str, Any]:
        return self.begin(vector, device="cpu").get_state()

    def resume(self, state: dict[str, Any]) -> QLearner:
        """Raises ``ConfigError`` if this machine has no room for the replay, or what the state holds is another run's."""
        require_memory(self.options)
        learner = self.begin(state["weights"])
        learner.set_state(state)
        return learner


def require_memory(options: QOptions) -> None:
    """Raises ``ConfigError`` if this machine has no room for the replay; while one is saved it is there twice."""
    total, times = total_memory(), 2 if options.checkpoint_replay else 1
    if options.replay_bytes > (most := int(LARGEST_SHARE_OF_MEMORY * total / times)):
        twice = ", twice while it is saved" if options.checkpoint_replay else ""
        raise ConfigError(
            f"algorithm.options.replay_bytes={options.replay_bytes}{twice}, but the learner's machine has {total} bytes of memory: set it "
            f"to {most} at the most, or run the learner where there is more"
        )
