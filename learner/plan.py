"""What an algorithm's learner has to offer, and how it is made: the same whether it runs here or in a process of its own."""

from typing import Any, Protocol, TypeVar, runtime_checkable

from actors.worker import C
from conf.schema import LearnerConfig
from learner.receipts import Counters, Receipt, RoundEnd
from learner.sums import Adder, GradientSum
from rtrl_core import WeightsSnapshot
from rtrl_core.shapes import Float, Tensor

C_contra = TypeVar("C_contra", contravariant=True)


@runtime_checkable
class ServedLearner(Protocol[C_contra]):
    """What a client needs of a learner of contributions ``C``."""

    counters: Counters

    def add(self, contribution: C_contra) -> Receipt:
        """Judges one contribution, learns from it if it is good, and updates the weights if it is time."""
        ...

    def finish_round(self) -> RoundEnd:
        """All that was sent has been judged: updates with what there is of it."""
        ...

    def snapshot(self) -> WeightsSnapshot:
        """A copy of the present weights on the CPU."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: tensors, numbers and nested dicts of them.

        ``weights`` is the flat float32 vector that acts, ``counters`` is ``Counters`` as a dict; the rest is the learner's own.
        """
        ...

    def continue_from(self, last: Counters) -> None:
        """After a failure took a learner with it: this one holds an older state, but counters and versions go on from ``last``."""
        ...


@runtime_checkable
class AddsSums(Protocol):
    """What a learner must be, besides, whose contributions may be added up on their way (``Algorithm.adds_up``)."""

    def add_sum(self, arrived: GradientSum) -> list[Receipt]:
        """As ``add``, of all at once: a receipt for each contribution, the last of which tells of the update."""
        ...


@runtime_checkable
class Resizable(Protocol):
    """What a learner must be, besides, whose fleet may follow its cluster (``Algorithm.follows``)."""

    def resize(self, batch_segments: int, max_lag: int) -> None:
        """From now on it updates with so many segments, and takes contributions that are so many versions late."""
        ...


@runtime_checkable
class AddingPlan(Protocol):
    """What a plan must be, besides, whose contributions may be added up before they reach the learner (``Algorithm.adds_up``). Its learner
    has ``add_sum``."""

    def adder(self) -> Adder:
        """Of what is in one sum, judged as the learner would."""
        ...


@runtime_checkable
class LearnerPlan(Protocol[C]):
    """Builds a learner. It can be sent to another process."""

    @property
    def config(self) -> LearnerConfig: ...

    def first_state(self, vector: Float[Tensor, " parameters"]) -> dict[str, Any]:
        """What ``resume`` takes for a new run with these weights; made on the CPU, wherever the learner itself will be."""
        ...

    def resume(self, state: dict[str, Any]) -> ServedLearner[C]:
        """A learner that goes on from ``ServedLearner.get_state``."""
        ...
