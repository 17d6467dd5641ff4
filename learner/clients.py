"""The learner as the training loop sees it: send contributions, take receipts. Here the protocol and the learner in this process."""

from typing import Any, Protocol, runtime_checkable

from actors.fleet import Handle
from learner.learner import LearnerPlan, Receipt


@runtime_checkable
class LearnerClient(Protocol):
    restarts: int
    weights: Handle
    """The newest weights that are known here."""

    def send(self, contribution: Handle) -> None:
        """Passes on one contribution; does not wait for it to be added."""
        ...

    def receipts(self, *, at_most_pending: int) -> list[Receipt]:
        """What has been added, in the order sent; waits until no more than ``at_most_pending`` are still on their way."""
        ...

    def finish_round(self) -> list[Receipt]:
        """Waits until all that was sent is judged, and updates with what was accepted of it; the last receipt has the update."""
        ...

    def renew_weights(self) -> None:
        """Makes ``weights`` ones that exist, after those that were known got lost."""
        ...

    def get_state(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class LocalLearner:
    """In this process."""

    restarts = 0

    def __init__(self, plan: LearnerPlan, state: dict[str, Any]) -> None:
        self._learner = plan.resume(state)
        self._receipts: list[Receipt] = []
        self.weights: Handle = self._learner.snapshot()

    def send(self, contribution: Handle) -> None:
        receipt = self._learner.add(contribution)
        if receipt.update is not None:
            self.weights = self._learner.snapshot()
        self._receipts.append(receipt)

    def receipts(self, *, at_most_pending: int) -> list[Receipt]:
        del at_most_pending
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

    def get_state(self) -> dict[str, Any]:
        return self._learner.get_state()

    def close(self) -> None:
        pass
