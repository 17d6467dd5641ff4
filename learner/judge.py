"""Which contributions count, and how much: none twice, and none that is too late or would spoil the sum of all.

The same wherever gradients are added: at the learner (``base_learner.py``, ``batch_learner.py``), or before they cross the network
(``sums.py``).
"""

from collections.abc import Iterable
from typing import NamedTuple

from actors.gradients import is_representable
from conf.schema import LearnerConfig
from learner.receipts import Verdict
from rtrl_core import ContributionHeader, ParameterLayout
from rtrl_core.shapes import Tensor


class Judgement(NamedTuple):
    """Whatever has weight 0 changes neither weights nor step counters."""

    verdict: Verdict
    reason: str
    weight: float


ACCEPTED = Judgement(Verdict.ACCEPTED, "", 1.0)


class Marks:
    """How far each actor has come, as far as was seen."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}
        """Last ``(incarnation, sequence)`` of each."""

    def is_new(self, header: ContributionHeader) -> bool:
        return (header.incarnation, header.sequence) > self._seen.get(header.actor_id, (-1, -1))

    def pass_by(self, header: ContributionHeader) -> bool:
        """Whether it is new; from now on it is not, nor is what the actor sent before it."""
        is_new = self.is_new(header)
        if is_new:
            self._seen[header.actor_id] = (header.incarnation, header.sequence)
        return is_new

    def get_state(self) -> dict[str, list[int]]:
        return {str(actor_id): list(mark) for actor_id, mark in self._seen.items()}

    def set_state(self, state: dict[str, list[int]]) -> None:
        self._seen = {int(actor_id): (mark[0], mark[1]) for actor_id, mark in state.items()}


def name_of(header: ContributionHeader) -> str:
    return f"contribution {header.sequence} of actor {header.actor_id} (start {header.incarnation})"


def name_of_sum(headers: Iterable[ContributionHeader]) -> str:
    actors = sorted({header.actor_id for header in headers})
    return f"the sum of actors {actors[0]} to {actors[-1]}" if len(actors) > 1 else f"the sum of actor {actors[0]}"


def of_another_network(name: str, layout: str, expected: ParameterLayout) -> Judgement | None:
    if layout == expected.fingerprint:
        return None
    return Judgement(Verdict.REFUSED, f"{name} is of network {layout}, expected {expected.fingerprint}", 0.0)


def came_twice(name: str) -> Judgement:
    return Judgement(Verdict.DROPPED, f"{name} came twice", 0.0)


def of_lost_weights(name: str) -> Judgement:
    return Judgement(Verdict.DROPPED, f"{name} is of weights that were lost with a failed learner", 0.0)


def of_lag(config: LearnerConfig, name: str, lag: int) -> Judgement:
    """What ``learner.lag_rule`` makes of what is so many versions late."""
    excess = 0 if config.max_lag is None else lag - config.max_lag
    if excess <= 0 or config.lag_rule == "accept":
        return ACCEPTED
    if config.lag_rule == "damp":
        return Judgement(Verdict.DAMPED, f"{name} is {lag} versions late", 1.0 / (1 + excess))
    return Judgement(Verdict.DROPPED, f"{name} is {lag} versions late (learner.max_lag={config.max_lag})", 0.0)


def of_numbers(name: str, gradient: Tensor, layout: ParameterLayout) -> Judgement | None:
    """Of a gradient that would spoil every other that it is added to."""
    if gradient.shape != (layout.size,):
        reason = f"of {gradient.numel()} parameters, expected {layout.size}"
    elif is_representable(gradient):
        return None
    else:
        parameters = {slot.name: slot.view(gradient) for slot in layout.slots}
        if broken := [parameter for parameter, values in parameters.items() if not bool(values.isfinite().all())]:
            reason = f"not finite in {', '.join(broken)}"
        else:
            largest = max(parameters, key=lambda parameter: float(parameters[parameter].abs().max()))
            reason = f"too large to be added to others, most of all in {largest}"
    return Judgement(Verdict.REFUSED, f"{name} is {reason}", 0.0)
