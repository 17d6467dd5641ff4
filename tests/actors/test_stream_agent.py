"""Streaming against the mathematics: autograd through the whole history for every gradient, plain sums for every trace and update.

With weights that stand still, the gradient of a step by RTRL is that of backpropagation to the start of the episode. The encoder's is
that of the step alone, which the oracle gets by detaching what it gave before.
"""

from typing import Any, NamedTuple

import pytest
import torch

from actors.stem import StepInput
from actors.stream_agent import Outcome, StreamAgent, StreamOptions
from rtrl_core import (
    CoreState,
    DiagonalCore,
    GatedCore,
    NetworkSpec,
    PolicyNetwork,
    actor_critic_losses,
    carried,
    vtrace,
)
from rtrl_core.cores.side_by_side import SideBySideCore
from rtrl_core.policies import Categorical

ENDS = {0: (3, 7), 1: (5,), 2: ()}
"""Steps after which an episode ends, by stream."""
DTYPE = torch.float64


def make_network(**changes: Any) -> PolicyNetwork:
    torch.manual_seed(3)
    spec = {"encoder": "stream_mlp", "features": 4, "num_units": 3, "last_action": True, "critic": "separate"}
    network = PolicyNetwork(NetworkSpec((2,), "vector", Categorical(3), **{**spec, **changes})).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.6)
    return network


class History(NamedTuple):
    """Time-major, of as many steps as were played, and one more observation."""

    observations: torch.Tensor
    last_rewards: torch.Tensor
    last_actions: torch.Tensor
    is_first: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    finals: torch.Tensor
    """Observations with which episodes were cut off."""
    terminated: torch.Tensor
    truncated: torch.Tensor
    valid: torch.Tensor

    def step(self, t: int) -> StepInput:
        return StepInput(self.observations[t], self.last_rewards[t], self.last_actions[t], self.is_first[t], None)

    def final(self, t: int) -> StepInput:
        """What would have been seen after step ``t`` had it gone on."""
        never = torch.zeros_like(self.is_first[t])
        return StepInput(self.finals[t], self.last_rewards[t + 1], self.last_actions[t + 1], never, None)


def make_history(num_steps: int = 10, num_streams: int = 3, *, cut_off: bool = False) -> History:
    generator = torch.Generator().manual_seed(5)
    over = torch.zeros(num_steps, num_streams, dtype=torch.bool)
    for stream, ends in ENDS.items():
        for t in ends:
            if stream < num_streams and t < num_steps:
                over[t, stream] = True
    first = torch.cat([torch.ones(1, num_streams, dtype=torch.bool), over])
    shape = (num_steps, num_streams)
    rewards, actions = torch.randn(shape, generator=generator, dtype=DTYPE), torch.randint(0, 3, shape)
    nothing = torch.zeros_like(over)
    return History(
        observations=torch.randn(num_steps + 1, num_streams, 2, generator=generator, dtype=DTYPE),
        last_rewards=torch.cat([torch.zeros(1, num_streams, dtype=DTYPE), rewards]),
        last_actions=torch.cat([torch.zeros(1, num_streams, dtype=torch.int64), actions]),
        is_first=first,
        actions=actions,
        rewards=rewards,
        finals=torch.randn(num_steps, num_streams, 2, generator=generator, dtype=DTYPE),
        terminated=nothing if cut_off else over,
        truncated=over if cut_off else nothing,
        valid=torch.ones_like(over),
    )


def learn_step(agent: StreamAgent, history: History, t: int) -> Any:
    agent.act(history.step(t))
    next_values = agent.look(history.step(t + 1))
    if history.truncated[t].any():
        cut = history.truncated[t]
        next_values[cut] = agent.look(history.final(t), cut.nonzero().flatten().tolist())
    flags = (history.terminated[t], history.truncated[t], history.valid[t])
    return agent.learn(Outcome(history.actions[t], history.rewards[t], next_values, *flags))


def traced_step(agent: StreamAgent, history: History, t: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """``learn_step``, and the traces that its update was made of: the agent forgets those of ended episodes only after it."""
    traces: dict[str, torch.Tensor] = {}
    forget = agent.forget_traces

    def look_first(streams: torch.Tensor) -> None:
        assert torch.equal(streams, history.is_first[t + 1])
        traces.update(policy_head=agent.actor_traces.vector.clone(), value_head=agent.critic_traces.vector.clone())
        forget(streams)

    agent.forget_traces = look_first
    report = learn_step(agent, history, t)
    agent.forget_traces = forget
    return report, traces


class Oracle:
    """Plain backpropagation: for each step the whole episode again, in one stream, from its start."""

    def __init__(self, network: PolicyNetwork, history: History) -> None:
        self.network, self.history = network, history

    def outputs(self, stream: int, steps: list[StepInput]) -> Any:
        """Policy and value at the last of these steps, the first of which starts an episode."""
        core = self.network.core
        halves = core.cores if isinstance(core, SideBySideCore) else [core]
        states: list[Any] = [None] * len(halves)
        hidden = torch.zeros(0)
        for number, step in enumerate(steps):
            row = step.of(slice(stream, stream + 1))
            first = torch.tensor([number == 0])
            features = self.network.encode(row.observation)
            inputs = self.network.core_inputs(features, row.last_reward, row.last_action, first)
            if step is not steps[-1]:
                inputs = inputs.detach()
            parts = inputs.split([half.input_size for half in halves], -1)
            results = [_advance(half, part, state) for half, part, state in zip(halves, parts, states, strict=True)]
            states = [state for _, state in results]
            hidden = torch.cat([outputs for outputs, _ in results], -1)
        return self.network.heads(hidden)

    def episode(self, stream: int, t: int) -> list[StepInput]:
        start = max(s for s in range(t + 1) if self.history.is_first[s, stream])
        return [self.history.step(s) for s in range(start, t + 1)]

    def value_after(self, stream: int, t: int) -> float:
        """Of the next observation, or the one that an episode was cut off at; 0 after a termination."""
        if self.history.terminated[t, stream]:
            return 0.0
        following = self.history.final(t) if self.history.truncated[t, stream] else self.history.step(t + 1)
        with torch.no_grad():
            return float(self.outputs(stream, [*self.episode(stream, t), following]).values)


def _advance(core: Any, inputs: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    if isinstance(core, GatedCore):
        cells, state = _advance(core.core, inputs, state)
        return core.open(inputs, cells), state
    if isinstance(core, DiagonalCore):
        state = inputs.new_zeros(1, core.num_units) if state is None else state
        gates = torch.stack([inputs @ matrix.t() for matrix in core.matrices], 1)
        state = core.cell.forward(state, gates, core.vectors)
        return state, state
    return inputs, None


def flat(gradients: Any, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


CASES = {
    "segment": {},
    "reference": {"rule": "reference"},
    "another cell": {"core": "mingru"},
    "without memory": {"core": "feedforward"},
    "one core for both": {"critic": "shared"},
    "nothing below": {"encoder": "none", "core": "indrnn"},
}


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("case", "cut_off"),
    [
        ("segment", False),
        ("segment", True),
        ("one core for both", False),
        ("nothing below", False),
        *(
            pytest.param(case, False, marks=pytest.mark.soak)
            for case in ("reference", "another cell", "without memory")
        ),
    ],
)
def test_traces_and_errors_are_those_of_backpropagation_through_whole_episodes(case: str, cut_off: bool):
    network, history = make_network(**CASES[case]), make_history(cut_off=cut_off)
    options = StreamOptions(discount=0.9, trace_decay=0.7, entropy_cost=0.05, learning_rate=1e-300)
    agent, oracle = StreamAgent(network, options, 3), Oracle(network, history)
    heads = ("policy_head", "value_head")
    parameters = {head: network.trained_by(head) for head in heads}
    traces = {
        (head, b): torch.zeros(sum(p.numel() for p in parameters[head]), dtype=DTYPE)
        for head in heads
        for b in range(3)
    }
    for t in range(len(history.actions)):
        deltas: list[float] = []
        for b in range(3):
            output = oracle.outputs(b, oracle.episode(b, t))
            delta = float(history.rewards[t, b]) + 0.9 * oracle.value_after(b, t) - float(output.values.detach())
            deltas.append(delta)
            log_policy = torch.log_softmax(output.parameters[0], -1)
            entropy = -(log_policy.exp() * log_policy).sum()
            objective = log_policy[history.actions[t, b]] + 0.05 * (1 if delta > 0 else -1) * entropy
            for head, target in zip(heads, (objective, output.values[0]), strict=True):
                gradient = torch.autograd.grad(target, parameters[head], allow_unused=True, retain_graph=True)
                # The trace of the step before is forgotten where an episode starts, and nowhere else.
                old = 0 if history.is_first[t, b] else 0.9 * 0.7 * traces[head, b]
                traces[head, b] = old + flat(gradient, parameters[head])
        report, seen = traced_step(agent, history, t)
        torch.testing.assert_close(report.deltas, torch.tensor(deltas, dtype=DTYPE), rtol=1e-10, atol=1e-12)
        for head in heads:
            expected = torch.stack([traces[head, b] for b in range(3)])
            torch.testing.assert_close(seen[head], expected, rtol=1e-10, atol=1e-12)


def test_truncated_backpropagation_credits_the_step_alone():
    network, history = make_network(rule="tbptt"), make_history()
    agent = StreamAgent(network, StreamOptions(trace_decay=0.0, learning_rate=1e-300), 3)
    for t in range(3):
        before = [copied(core) for core in agent.cores]
        learn_step(agent, history, t)
        for b in range(3):
            row = history.step(t).of(slice(b, b + 1))
            inputs = network.core_inputs(network.encode(row.observation), *row[1:4])
            output, _ = network.unroll(inputs.unsqueeze(0), before[b], row.is_first.unsqueeze(0))
            parameters = network.trained_by("value_head")
            gradient = torch.autograd.grad(output.values.sum(), parameters, allow_unused=True)
            torch.testing.assert_close(agent.critic_traces.vector[b], flat(gradient, parameters))


def copied(state: CoreState) -> CoreState:
    return carried.map_leaves(torch.clone, state)


def test_every_update_is_the_mean_over_streams_of_their_bounded_steps():
    network, history = make_network(), make_history(cut_off=True)
    options = StreamOptions(discount=0.9, learning_rate=0.5, kappa_actor=3.0, kappa_critic=2.0)
    agent = StreamAgent(network, options, 3)
    for t in range(len(history.actions)):
        before = {
            head: [p.detach().clone() for p in network.trained_by(head)] for head in ("policy_head", "value_head")
        }
        report, traces = traced_step(agent, history, t)
        for head, kappa in (("policy_head", 3.0), ("value_head", 2.0)):
            change = torch.zeros_like(traces[head][0])
            for b in range(3):
                delta, trace = float(report.deltas[b]), traces[head][b]
                change += (
                    0.5 / max(1.0, 0.5 * kappa * max(abs(delta), 1.0) * float(trace.abs().sum())) * delta * trace / 3
                )
            expected = torch.cat([p.flatten() for p in before[head]]) + change
            now = torch.cat([p.detach().flatten() for p in network.trained_by(head)])
            torch.testing.assert_close(now, expected, rtol=1e-12, atol=1e-13)
        assert not agent.actor_traces.vector[history.is_first[t + 1]].any()
        assert not agent.critic_traces.vector[history.is_first[t + 1]].any()


def test_streams_do_not_see_each_other_but_for_the_mean():
    together, history = StreamAgent(make_network(), StreamOptions(learning_rate=1e-300), 3), make_history()
    for t in range(len(history.actions)):
        learn_step(together, history, t)
    for b in range(3):
        alone = StreamAgent(make_network(), StreamOptions(learning_rate=1e-300), 1)
        own = History(*(part[:, b : b + 1] for part in history))
        for t in range(len(own.actions)):
            learn_step(alone, own, t)
        torch.testing.assert_close(alone.actor_traces.vector[0], together.actor_traces.vector[b], rtol=0, atol=0)
        torch.testing.assert_close(alone.critic_traces.vector[0], together.critic_traces.vector[b], rtol=0, atol=0)


def test_a_step_that_is_no_transition_changes_nothing_and_cuts_the_trace():
    network, history = make_network(), make_history()
    history.valid[2, 1] = False
    history.rewards[2, 1] = torch.nan
    agent = StreamAgent(network, StreamOptions(), 3)
    for t in range(2):
        learn_step(agent, history, t)
    report = learn_step(agent, history, 2)
    assert float(report.deltas[1]) == float(report.log_policy[1]) == float(report.step_sizes[1]) == 0.0
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    assert not agent.actor_traces.vector[1].any()
    assert agent.actor_traces.vector[2].any()


@pytest.mark.parametrize("rule", ["segment", "reference"])
def test_the_updates_of_an_unroll_are_the_returns_of_its_steps_and_what_the_traces_carried_into_it(rule: str):
    """``sum_t delta_t e_t = sum_t A_t grad_t + (sum_t (gamma lambda)^t delta_t) e_0``, ``A_t = sum_{s>=t} (gamma lambda)^{s-t} delta_s``.

    Up to the first end of an episode, t = 1..T, and with nothing carried across it; from a carried ``e_0`` and ``S_0``. The right side
    is the gradient of a whole unroll by its learning rule, with the returns of ``vtrace`` (``trace_decay`` = lambda) for ``A_t``.
    """
    before, unroll, num_streams, discount, decay = 4, 6, 3, 0.9, 0.7
    network, history = make_network(rule=rule, encoder="none"), make_history()
    options = StreamOptions(discount=discount, trace_decay=decay, entropy_cost=0.0, learning_rate=1e-300)
    agent = StreamAgent(network, options, num_streams)
    for t in range(before):
        learn_step(agent, history, t)
    assert history.is_first[before].any()
    assert history.is_first[before + 1 :].any()
    e_0 = {"policy_head": agent.actor_traces.vector.clone(), "value_head": agent.critic_traces.vector.clone()}
    states = [copied(core) for core in agent.cores]

    sums = {head: torch.zeros_like(trace) for head, trace in e_0.items()}
    deltas = torch.zeros(unroll, num_streams, dtype=DTYPE)
    for t in range(unroll):
        report, traces = traced_step(agent, history, before + t)
        deltas[t] = report.deltas
        for head in sums:
            sums[head] += deltas[t, :, None] * traces[head]

    rows = range(before, before + unroll)
    for b in range(num_streams):
        inputs, firsts = [], history.is_first[before : before + unroll, b : b + 1]
        for t in rows:
            row = history.step(t).of(slice(b, b + 1))
            inputs.append(network.core_inputs(network.encode(row.observation), *row[1:4]))
        output, _ = network.unroll(torch.stack(inputs), states[b], firsts)
        inside = (slice(before, before + unroll), slice(b, b + 1))
        returns = vtrace(
            log_ratios=torch.zeros(unroll, 1, dtype=DTYPE),
            rewards=deltas[
                :, b : b + 1
            ],  # rewards that are errors, of values that are zero: their lambda-returns are A_t
            values=torch.zeros(unroll, 1, dtype=DTYPE),
            next_values=torch.zeros(unroll, 1, dtype=DTYPE),
            terminated=history.terminated[inside],
            truncated=history.truncated[inside],
            valid=history.valid[inside],
            discount=discount,
            trace_decay=decay,
        )
        losses = actor_critic_losses(
            distribution=network.distribution,
            parameters=output.parameters,
            values=output.values,
            actions=history.actions[inside],
            returns=returns._replace(advantages=returns.targets),
            valid=history.valid[inside],
            entropy_cost=0.0,
            baseline_cost=0.0,
        )
        older = 0.0
        for t in range(unroll):
            if firsts[t, 0]:
                break
            older += (discount * decay) ** (t + 1) * float(deltas[t, b])
        for head, target in (("policy_head", -losses.policy), ("value_head", (returns.targets * output.values).sum())):
            parameters = network.trained_by(head)
            gradient = torch.autograd.grad(target, parameters, allow_unused=True, retain_graph=True)
            expected = flat(gradient, parameters) + older * e_0[head][b]
            scale = float(expected.abs().max())
            torch.testing.assert_close(sums[head][b] / scale, expected / scale, rtol=0, atol=4e-14)
        if b == 2:
            assert older, "the trace from before the unroll has a part in it"


def test_what_a_stream_carries_can_be_saved_and_forgotten():
    network, history = make_network(), make_history()
    agent = StreamAgent(network, StreamOptions(learning_rate=1e-300), 3)
    for t in range(2):
        learn_step(agent, history, t)
    again = StreamAgent(network, StreamOptions(learning_rate=1e-300), 3)
    again.set_state(agent.get_state())
    for t in range(2, 6):
        learn_step(agent, history, t)
        learn_step(again, history, t)
    assert torch.equal(agent.actor_traces.vector, again.actor_traces.vector)
    assert torch.equal(agent.critic_traces.vector, again.critic_traces.vector)
    agent.actor_traces.vector[1] = torch.inf
    assert agent.unsound(1e18).tolist() == [False, True, False]
    agent.begin_anew(agent.unsound(1e18))
    assert not agent.unsound(1e18).any()
    assert agent.actor_traces.norms().bool().tolist() == [True, False, True]
    assert agent.sensitivity_norms().bool().tolist() == [True, False, True]
    smaller = StreamAgent(make_network(num_units=2), StreamOptions(), 3)
    with pytest.raises(ValueError, match="expected traces"):
        smaller.set_state(agent.get_state())
