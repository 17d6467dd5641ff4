"""AC(lambda) that learns at every step, with real-time recurrent learning: what it does with one step of its streams.

    act     x_t -> core (its sensitivity advances with it) -> policy, value
    learn   delta_t = r_t + gamma V(o_{t+1}) - V(o_t)                                          0 for V where the episode terminated
            e       = gamma lambda e + grad [ log pi(a_t) + entropy_cost sgn(delta_t) H(pi_t) ]        trace of the actor
            e'      = gamma lambda e' + grad V(o_t)                                            trace of the critic
            theta  += mean over streams of their ObGD steps along delta_t e and delta_t e'     rtrl_core/traces.py
            where the episode ended: e = e' = 0, after the update

Elsayed, Vasan & Mahmood (2024). The gradient of a step is that of an unroll of one step and one stream: of the core what its learning
rule makes of the carried sensitivity, of encoder and heads what the step itself says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from actors.stem import StemPass, StepInput
from rtrl_core import CoreState, PolicyNetwork, PolicyOutput, carried
from rtrl_core.shapes import Bool, Float, Shaped, Tensor
from rtrl_core.traces import EligibilityTraces, bounded_step_sizes


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Defaults are those of the published code."""

    discount: float = 0.99
    entropy_cost: float = 0.01
    trace_decay: float = 0.8
    """lambda."""
    learning_rate: float = 1.0
    """alpha, where nothing bounds the step."""
    kappa_actor: float = 3.0
    kappa_critic: float = 2.0


class Outcome(NamedTuple):
    """What became of one step."""

    actions: Shaped[Tensor, "B ..."]
    rewards: Float[Tensor, " B"]
    """As the error sees them."""
    next_values: Float[Tensor, " B"]
    """``V(o_{t+1})`` by the weights that acted, of the final observation where the episode was cut off; ignored where it terminated."""
    terminated: Bool[Tensor, " B"]
    truncated: Bool[Tensor, " B"]
    valid: Bool[Tensor, " B"]
    """False where the step is no transition: nothing is learnt from it, and no trace goes on across it."""


class StepReport(NamedTuple):
    """Each zero in a stream whose step was no transition."""

    deltas: Float[Tensor, " B"]
    targets: Float[Tensor, " B"]
    """``r + gamma V(o_{t+1})``."""
    log_policy: Float[Tensor, " B"]
    entropies: Float[Tensor, " B"]
    step_sizes: Float[Tensor, " B"]
    """Of the actor."""


class StreamAgent:
    """Owns what ``num_streams`` streams carry, and changes the network's weights. Streams are differentiated one after the other.

    Args:
        network: any; where policy and value share a core, both traces lead over it.
    """

    def __init__(self, network: PolicyNetwork, options: StreamOptions, num_streams: int) -> None:
        self.network, self.options = network, options
        actor, critic = network.trained_by("policy_head"), network.trained_by("value_head")
        self._parameters = (actor, critic)
        self._are_apart = not {id(parameter) for parameter in actor} & {id(parameter) for parameter in critic}
        if self._are_apart:  # one backward pass of each core per step
            network.core.advance_in_backward()
        self.actor_traces = EligibilityTraces(actor, num_streams)
        self.critic_traces = EligibilityTraces(critic, num_streams)
        self.cores: list[CoreState] = [network.initial_state(1) for _ in range(num_streams)]
        self._outputs: list[PolicyOutput] = []
        self._forward = StemPass(network, autocast=None)

    def act(self, step: StepInput) -> PolicyOutput:
        """Policies and values of the step's observation, for ``learn``. States and sensitivities advance."""
        self._outputs = []
        for stream, core in enumerate(self.cores):
            row = step.of(slice(stream, stream + 1))
            inputs = self._forward(row).unsqueeze(0)
            output, self.cores[stream] = self.network.unroll(inputs, core, row.is_first.unsqueeze(0))
            self._outputs.append(PolicyOutput(output.parameters[0], output.values[0]))
        parameters, values = zip(*self._outputs, strict=True)
        return PolicyOutput(torch.cat(parameters).detach(), torch.cat(values).detach())

    @torch.no_grad()
    def look(self, step: StepInput, streams: Sequence[int] | None = None) -> Float[Tensor, " streams"]:
        """Values of what comes next in these streams, by the present weights; nothing advances. ``step`` has a row for every stream."""
        values = []
        for stream in range(len(self.cores)) if streams is None else streams:
            row = step.of(slice(stream, stream + 1))
            values.append(
                self.network.value(
                    row.observation,
                    row.last_reward,
                    row.last_action,
                    row.is_first,
                    row.instruction,
                    self.cores[stream].cell,
                )
            )
        return torch.cat(values)

    def learn(self, outcome: Outcome) -> StepReport:
        """One update from the last ``act`` and what became of it."""
        nothing = torch.zeros_like(outcome.next_values)
        values = torch.cat([output.values.detach() for output in self._outputs])
        bootstrap = torch.where(outcome.terminated, nothing, self.options.discount * outcome.next_values)
        targets = torch.where(outcome.valid, outcome.rewards + bootstrap, nothing)
        deltas = torch.where(outcome.valid, targets - values, nothing)
        log_policy, entropies = nothing.clone(), nothing.clone()
        for stream, is_valid in enumerate(outcome.valid.tolist()):
            if is_valid:
                log_policy[stream], entropies[stream] = self._trace(stream, outcome.actions, deltas[stream])
        self._outputs = []
        for core in self.cores:  # of streams without a gradient
            self.network.core.settle(core)
        step_sizes = self._update(self.actor_traces, deltas, self.options.kappa_actor)
        self._update(self.critic_traces, deltas, self.options.kappa_critic)
        self.forget_traces(outcome.terminated | outcome.truncated | ~outcome.valid)
        return StepReport(deltas, targets, log_policy, entropies, torch.where(outcome.valid, step_sizes, nothing))

    def _trace(self, stream: int, actions: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the gradients of a stream's step to its traces. Returns ``log pi`` and the entropy."""
        parameters, values = self._outputs[stream]
        log_policy = self.network.distribution.log_prob(parameters, actions[stream : stream + 1]).sum()
        entropy = self.network.distribution.entropy(parameters).sum()
        objective = log_policy + self.options.entropy_cost * delta.sign() * entropy
        of_actor, of_critic = self._gradients(objective, values.sum())
        decay = self.options.discount * self.options.trace_decay
        self.actor_traces.add(stream, of_actor, decay)
        self.critic_traces.add(stream, of_critic, decay)
        return log_policy.detach(), entropy.detach()

    def _gradients(self, objective: Tensor, value: Tensor) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        actor, critic = self._parameters
        if self._are_apart:  # neither depends on the other's parameters: the gradient of the sum is both
            found = torch.autograd.grad(objective + value, [*actor, *critic], allow_unused=True)
            return found[: len(actor)], found[len(actor) :]
        of_actor = torch.autograd.grad(objective, actor, allow_unused=True, retain_graph=True)
        return of_actor, torch.autograd.grad(value, critic, allow_unused=True)

    def _update(self, traces: EligibilityTraces, deltas: Float[Tensor, " B"], kappa: float) -> Float[Tensor, " B"]:
        step_sizes = bounded_step_sizes(deltas, traces.norms(), self.options.learning_rate, kappa)
        traces.move(step_sizes * deltas / len(deltas))
        return step_sizes

    def forget_traces(self, streams: Bool[Tensor, " B"]) -> None:
        if streams.any():
            self.actor_traces.reset(streams)
            self.critic_traces.reset(streams)

    def begin_anew(self, streams: Bool[Tensor, " B"]) -> None:
        """Forgets all that these streams carry, whatever it is."""
        self.forget_traces(streams)
        for stream in streams.nonzero().flatten().tolist():
            self.cores[stream] = self.network.initial_state(1)

    def sensitivity_norms(self) -> Float[Tensor, " B"]:
        """Of each stream, in float64; 0 without a sensitivity."""
        norms = [self.network.core.stream_norms(core.sensitivity) for core in self.cores]
        nothing = torch.zeros(1, dtype=torch.float64)
        return torch.cat([nothing if norm is None else norm.cpu() for norm in norms])

    def unsound(self, largest: float) -> Bool[Tensor, " B"]:
        """Streams that hold a number that is not finite, or a sensitivity or a trace of a norm above ``largest``."""
        cells = torch.cat([core._replace(sensitivity=None).finite_streams().cpu() for core in self.cores])
        norms = [self.sensitivity_norms(), self.actor_traces.norms().cpu(), self.critic_traces.norms().cpu()]
        return ~cells | ~torch.stack([norm <= largest for norm in norms]).all(0)

    def get_state(self) -> dict[str, Any]:
        """Copies of what goes on from step to step, less the weights."""
        return {
            "actor_traces": self.actor_traces.vector.clone(),
            "critic_traces": self.critic_traces.vector.clone(),
            "cores": [carried.save(carried.map_leaves(torch.clone, core)) for core in self.cores],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises ``ValueError`` if what was saved is of another network."""
        for traces, saved in ((self.actor_traces, state["actor_traces"]), (self.critic_traces, state["critic_traces"])):
            if traces.vector.shape != saved.shape:
                raise ValueError(f"expected traces {list(traces.vector.shape)}, got {list(saved.shape)}")
            traces.vector.copy_(saved)
        self.cores = [carried.load(core, saved) for core, saved in zip(self.cores, state["cores"], strict=True)]
