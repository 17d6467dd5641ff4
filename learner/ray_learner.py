"""The learner in a process of its own on Ray. Gradients and weights reach it and leave it by reference."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, NamedTuple

import numpy as np
import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.fleet import RestartLimit
from actors.precision import prepare_process
from actors.ray_failures import cause_of_death, is_lost_object
from actors.ray_fleet import ContributionReference, await_start, process_options
from actors.wire import Envelope, PackedSnapshot
from actors.worker import C
from conf.schema import FleetConfig
from learner.clients import resize
from learner.plan import AddsSums, LearnerPlan
from learner.receipts import Counters, Receipt, RoundEnd
from learner.sums import GradientSum

SURE_S = 1.0
"""Before it counts as silent: a driver that was stopped itself has not read what came meanwhile."""


class LearnerProcess(Generic[C]):
    """A learner in its own process."""

    def __init__(self, plan: LearnerPlan[C], state: dict[str, Any], lost: Counters | None) -> None:
        prepare_process(plan.config.threads)
        self._learner = plan.resume(state)
        if lost is not None:
            self._learner.continue_from(lost)

    def weights(self) -> PackedSnapshot:
        return PackedSnapshot.pack(self._learner.snapshot())

    def add(
        self, envelope: Envelope[C | GradientSum], arrays: dict[str, np.ndarray]
    ) -> tuple[list[Receipt], PackedSnapshot | None]:
        """The receipts of what came, and the new weights if there are any: as a second return value they go straight into the object
        store, once per version, and the driver passes on their reference."""
        arrived = envelope.enclose(arrays)
        if not isinstance(arrived, GradientSum):
            receipts = [self._learner.add(arrived)]
        elif isinstance(self._learner, AddsSums):
            receipts = self._learner.add_sum(arrived)
        else:
            raise TypeError(f"{type(self._learner).__name__} has no add_sum: its algorithm cannot be added up")
        return receipts, None if not receipts or receipts[-1].update is None else self.weights()

    def finish_round(self) -> tuple[RoundEnd, PackedSnapshot | None]:
        """See ``add`` for the weights."""
        end = self._learner.finish_round()
        return end, None if end.update is None else self.weights()

    def resize(self, batch_segments: int, max_lag: int) -> None:
        resize(self._learner, batch_segments, max_lag)

    def get_state(self) -> dict[str, Any]:
        return self._learner.get_state()


class _Sent(NamedTuple):
    receipts: ObjectRef
    weights: ObjectRef
    contributions: int


class RayLearner(Generic[C]):
    """On Ray, on a GPU if it is given one. A learner that dies or hangs is started again from the newest checkpoint.

    Args:
        state: what ``plan.resume`` takes, to start from.
        newest_state: reads the newest checkpoint's, for a learner that has to be started again.
        limits: how long it may take to start and to answer, and how often it may be started again.

    Raises:
        FleetError: if it finds no place or fails at its start, now or when it has to be started again, and after too many restarts.
    """

    def __init__(
        self,
        plan: LearnerPlan[C],
        state: dict[str, Any],
        *,
        newest_state: Callable[[], dict[str, Any]],
        limits: FleetConfig,
        announce: Callable[[str], None],
    ) -> None:
        self._restarts = RestartLimit(limits.max_restarts, "restarts of the learner")
        self._plan = plan
        self._newest_state = newest_state
        self._limits = limits
        self._announce = announce
        self._size: tuple[int, int] | None = None
        self._last = Counters(**state["counters"])
        """As last heard; the version is the newest that actors may have weights of."""
        self._pending: deque[_Sent] = deque()
        self._heard = 0.0
        """When it last answered, or was first asked after it owed nothing."""
        self._start(state, None)

    @property
    def restarts(self) -> int:
        return self._restarts.count

    @property
    def pending(self) -> int:
        return len(self._pending)

    def _start(self, state: dict[str, Any], lost: Counters | None) -> None:
        options = self._plan.config
        # Without a GPU to go to it stays beside the driver: Ray would put it on any node, and each may leave before the run ends.
        # Where it asks for cores, the driver's node may have none. Where it asks for none a preference is not enough: Ray keeps to it
        # half of the time.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=options.num_cpus > 0)
        self._process: Any = (
            ray.remote(LearnerProcess)
            .options(
                num_cpus=options.num_cpus,
                num_gpus=options.num_gpus,
                max_restarts=0,
                scheduling_strategy="DEFAULT" if options.num_gpus else here,
                **process_options(self._limits),
            )
            .remote(self._plan, state, lost)
        )
        self.weights: ObjectRef = self._process.weights.remote()
        # Here, because actors with weights that never come would be blamed for it.
        await_start([self.weights], self._limits.start_timeout_s, "the learner", "the learner was")
        if self._size is not None:
            self._process.resize.remote(*self._size)

    def send(self, contribution: ContributionReference[C]) -> None:
        receipts, weights = self._process.add.options(num_returns=2).remote(contribution.envelope, contribution.arrays)
        if not self._pending:
            self._heard = time.monotonic()
        self._pending.append(_Sent(receipts, weights, contribution.count))

    def receipts(self, *, at_most_pending: int, limit_s: float | None = None) -> list[Receipt]:
        receipts: list[Receipt] = []
        until = math.inf if limit_s is None else time.monotonic() + limit_s
        while self._pending:
            reference, weights, contributions = self._pending[0]
            silent_at = self._heard + self._limits.learner_timeout_s
            patient_until = min(until, silent_at) if len(self._pending) > at_most_pending else 0.0
            if not self._is_there(reference, patient_until):
                if time.monotonic() < silent_at:
                    break
                if not self._is_there(reference, time.monotonic() + SURE_S):
                    self._replace(self._silence)
                    break
            self._pending.popleft()
            self._heard = time.monotonic()
            try:
                answer: list[Receipt] = ray.get(reference)
            except RayError as failure:
                if (cause := cause_of_death(failure)) is not None:
                    self._replace(cause, lost=contributions)
                    break
                if is_lost_object(failure):  # the node of its actor died before it was added
                    continue
                raise
            if not answer:
                continue
            self._last = answer[-1].counters
            if answer[-1].update is not None:
                self.weights = weights
            receipts += answer
        return receipts

    @staticmethod
    def _is_there(answer: ObjectRef, until: float) -> bool:
        left = max(0.0, until - time.monotonic())
        return bool(ray.wait([answer], num_returns=1, timeout=left, fetch_local=False)[0])

    def finish_round(self) -> list[Receipt]:
        receipts = self.receipts(at_most_pending=0)
        answer, weights = self._process.finish_round.options(num_returns=2).remote()
        try:
            end: RoundEnd = self._answer(answer)
        except RayError as failure:
            self._replace(self._cause_of_silence(failure))
            return receipts
        self._last = end.counters
        if end.update is not None:
            self.weights = weights
        return end.noted_in(receipts)

    def _replace(self, cause: str, lost: int = 0) -> None:
        """
        Args:
            lost: contributions, beside those that it has not answered.
        """
        lost += sum(sent.contributions for sent in self._pending)
        self._restarts.record(cause)
        ray.kill(self._process)  # one that only hangs would keep its place and its GPU
        self._pending.clear()
        self._announce(
            f"learner restarted from the newest checkpoint ({cause}); {lost} contributions on their way were lost"
        )
        self._start(self._newest_state(), self._last)
        self._know_version(self._last.version + 1)

    def _know_version(self, version: int) -> None:
        """Of weights that actors get before any receipt tells of it. If the learner dies now, the next, which may begin with another
        checkpoint, must not call its own weights by it."""
        self._last = replace(self._last, version=max(self._last.version, version))

    def resize(self, batch_segments: int, max_lag: int) -> None:
        self._size = (batch_segments, max_lag)
        self._process.resize.remote(batch_segments, max_lag)

    def renew_weights(self) -> None:
        weights = self._process.weights.remote()
        try:
            snapshot: PackedSnapshot = self._answer(weights)
        except RayError as failure:
            self._replace(self._cause_of_silence(failure))
        else:
            self.weights = weights
            self._know_version(snapshot.version)

    def get_state(self) -> dict[str, Any]:
        while True:
            try:
                return self._answer(self._process.get_state.remote())
            except RayError as failure:
                self._replace(self._cause_of_silence(failure))

    def _answer(self, answer: ObjectRef) -> Any:
        """Raises ``GetTimeoutError`` if it does not come in time, and what a failed call raises."""
        found = ray.get(answer, timeout=self._limits.learner_timeout_s)
        self._heard = time.monotonic()
        return found

    @property
    def _silence(self) -> str:
        return f"no answer for {self._limits.learner_timeout_s:g} s (fleet.learner_timeout_s)"

    def _cause_of_silence(self, failure: RayError) -> str:
        """Why an answer of the learner will never come; raises the failure if that is a bug."""
        if isinstance(failure, GetTimeoutError):
            return self._silence
        if (cause := cause_of_death(failure)) is not None:
            return cause
        if is_lost_object(failure):
            return "its machine is gone, with its answer"
        raise failure

    def close(self) -> None:
        ray.kill(self._process)
