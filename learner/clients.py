"""The learner as the training loop sees it: send contributions, take receipts. Here the protocol and the learner in this process."""

from typing import Any, Generic, Protocol, runtime_checkable

from actors.fleet import W
from actors.worker import C
from learner.plan import C_contra, LearnerPlan, Resizable
from learner.receipts import Receipt
from rtrl_core import WeightsSnapshot


@runtime_checkable
class LearnerClient(Protocol[W, C_contra]):
    """``W`` are weights and ``C`` contributions, as this client and its fleet pass them."""

    weights: W
    """The newest weights that are known here."""

    @property
    def restarts(self) -> int:
        """Learners started again so far."""
        ...

    @property
    def pending(self) -> int:
        """Contributions that were sent and are not in a receipt yet."""
        ...

    def send(self, contribution: C_contra) -> None:
        """Passes on one contribution; does not wait for it to be added."""
        ...

    def receipts(self, *, at_most_pending: int, limit_s: float | None = None) -> list[Receipt]:
        """What has been added, in the order sent; waits until no more than ``at_most_pending`` are still on their way, or so long."""
        ...

    def finish_round(self) -> list[Receipt]:
        """Waits until all that was sent is judged, and updates with what was accepted of it; the last receipt has the update."""
        ...

    def renew_weights(self) -> None:
        """Makes ``weights`` ones that exist, after those that were known got lost."""
        ...

    def resize(self, batch_segments: int, max_lag: int) -> None:
        """What the learner updates with after all that was sent: see ``learner.plan.Resizable``."""
        ...

    def get_state(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


def resize(learner: object, batch_segments: int, max_lag: int) -> None:
    """Raises ``TypeError`` for a learner whose algorithm should not have said that its fleet may follow a cluster."""
    if not isinstance(learner, Resizable):
        raise TypeError(
            f"{type(learner).__name__} has no resize(batch_segments, max_lag): its algorithm cannot follow a cluster"
        )
    learner.resize(batch_segments, max_lag)


class LocalLearner(Generic[C]):
    """In this process."""

    restarts = pending = 0

    def __init__(self, plan: LearnerPlan[C], state: dict[str, Any]) -> None:
        self._learner = plan.resume(state)
        self._receipts: list[Receipt] = []
        self.weights: WeightsSnapshot = self._learner.snapshot()

    def send(self, contribution: C) -> None:
        receipt = self._learner.add(contribution)
        if receipt.update is not None:
            self.weights = self._learner.snapshot()
        self._receipts.append(receipt)

    def receipts(self, *, at_most_pending: int, limit_s: float | None = None) -> list[Receipt]:
        del at_most_pending, limit_s
        receipts, self._receipts = self._receipts, []
        return receipts

    def finish_round(self) -> list[Receipt]:
        receipts = self.receipts(at_most_pending=0)
        end = self._learner.finish_round()
        if end.update is not None:
            self.weights = self._learner.snapshot()
        return end.noted_in(receipts)

    def renew_weights(self) -> None:
        self.weights = self._learner.snapshot()

    def resize(self, batch_segments: int, max_lag: int) -> None:
        resize(self._learner, batch_segments, max_lag)

    def get_state(self) -> dict[str, Any]:
        return self._learner.get_state()

    def close(self) -> None:
        pass
