"""What becomes of contributions that are no good: an actor that sends nothing else is replaced, a run that gets nothing else ends."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from learner.receipts import Receipt, Verdict

REFUSALS_PER_ACTOR = 3
"""Refusals in a row after which an actor is replaced: what is wrong with it has outlived the resets of its streams."""
ROUNDS_WITHOUT_PROGRESS = 10
"""Contributions of the whole fleet, in unrolls of each actor, of which one must be accepted."""
FEWEST = 30
"""For small fleets: enough for actors to be replaced a few times."""


class NoProgress(RuntimeError):
    """Nothing is accepted any more. One line for the user."""


class Refusals:
    """
    Args:
        num_actors: of the fleet, now.
        replace: starts an actor again; takes its number and the cause.
        announce: takes what a person should read.
    """

    def __init__(
        self, num_actors: Callable[[], int], replace: Callable[[int, str], None], announce: Callable[[str], None]
    ) -> None:
        self._num_actors = num_actors
        self._replace = replace
        self._announce = announce
        self._in_a_row: dict[tuple[int, int], int] = defaultdict(int)
        self._since_progress = 0

    def add(self, receipts: Iterable[Receipt]) -> None:
        """Looks at what the learner has answered, in its order.

        Raises:
            NoProgress: if too many contributions in a row were left out.
        """
        for receipt in receipts:
            if receipt.verdict in (Verdict.ACCEPTED, Verdict.DAMPED):
                self._since_progress = 0
                self._in_a_row.pop((receipt.header.actor_id, receipt.header.incarnation), None)
                continue
            self._since_progress += 1
            if receipt.verdict is Verdict.REFUSED:
                self._refused(receipt)
            if self._since_progress >= max(FEWEST, ROUNDS_WITHOUT_PROGRESS * self._num_actors()):
                raise NoProgress(
                    f"none of the last {self._since_progress} contributions was accepted; the last one was "
                    f"{receipt.verdict}: {receipt.reason}"
                )

    def _refused(self, receipt: Receipt) -> None:
        self._announce(f"refused: {receipt.reason}")
        actor = (receipt.header.actor_id, receipt.header.incarnation)
        self._in_a_row[actor] += 1
        if self._in_a_row[actor] == REFUSALS_PER_ACTOR:
            self._replace(
                receipt.header.actor_id, f"{REFUSALS_PER_ACTOR} contributions in a row were refused: {receipt.reason}"
            )
