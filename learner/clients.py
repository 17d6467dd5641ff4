"""The learner as the training loop sees it: send contributions, take receipts. In this process, or in one of its own on Ray."""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.fleet import FinishedUnroll, FleetError, Handle
from actors.ray_fleet import PROCESS_ENVIRONMENT, GradientReference, prepare_process
from actors.wire import Envelope, PackedSnapshot
from conf.schema import LearnerConfig
from learner.learner import Counters, Learner, Receipt

LearnerFactory = Callable[[], Learner]
"""Builds a learner in the state to start from: of a checkpoint, or new."""


class LearnerClient(Protocol):
    restarts: int
    weights: Handle
    """The newest weights that are known here."""

    def send(self, unroll: FinishedUnroll) -> None:
        """Passes on one contribution; does not wait for it to be added."""
        ...

    def receipts(self, *, at_most_pending: int) -> list[Receipt]:
        """What has been added, in the order sent; waits until no more than ``at_most_pending`` are still on their way."""
        ...

    def get_state(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class LocalLearner:
    """In this process."""

    restarts = 0

    def __init__(self, create: LearnerFactory) -> None:
        self._learner = create()
        self._receipts: list[Receipt] = []
        self.weights: Handle = self._learner.snapshot()

    def send(self, unroll: FinishedUnroll) -> None:
        receipt = self._learner.add(unroll.contribution)
        if receipt.update is not None:
            self.weights = self._learner.snapshot()
        self._receipts.append(receipt)

    def receipts(self, *, at_most_pending: int) -> list[Receipt]:
        del at_most_pending
        receipts, self._receipts = self._receipts, []
        return receipts

    def get_state(self) -> dict[str, Any]:
        return self._learner.get_state()

    def close(self) -> None:
        pass


class LearnerProcess:
    """A learner in its own process."""

    def __init__(self, config: LearnerConfig, create: LearnerFactory, lost: Counters | None) -> None:
        prepare_process(config.threads)
        self._learner = create()
        if lost is not None:
            self._learner.continue_from(lost)

    def weights(self) -> PackedSnapshot:
        return PackedSnapshot.pack(self._learner.snapshot())

    def add(self, envelope: Envelope, gradient: np.ndarray) -> tuple[Receipt, PackedSnapshot | None]:
        """The receipt, and the new weights if there are any: as a second return value they go straight into the object store,
        once per version, and the driver passes on their reference."""
        receipt = self._learner.add(envelope.enclose(gradient))
        return receipt, None if receipt.update is None else self.weights()

    def get_state(self) -> dict[str, Any]:
        return self._learner.get_state()


class RayLearner:
    """On Ray, on a GPU if it is given one. A learner that dies is started again from the newest checkpoint.

    Args:
        create: called in the learner's process, again after every death; it must find the newest checkpoint by itself.
    """

    def __init__(self, config: LearnerConfig, create: LearnerFactory, max_restarts: int, announce: Callable[[str], None]) -> None:
        self.restarts = 0
        self._config = config
        self._create = create
        self._max_restarts = max_restarts
        self._announce = announce
        self._last = Counters()
        self._pending: deque[tuple[Handle, Handle]] = deque()
        self._start(None)

    def _start(self, lost: Counters | None) -> None:
        options = self._config
        self._process = (
            ray.remote(LearnerProcess)
            .options(
                num_cpus=options.num_cpus,
                num_gpus=options.num_gpus,
                max_restarts=0,
                runtime_env={"env_vars": {**PROCESS_ENVIRONMENT, "OMP_NUM_THREADS": str(options.threads)}},
            )
            .remote(options, self._create, lost)
        )
        self.weights: Handle = self._process.weights.remote()
        ray.wait([self.weights], num_returns=1, fetch_local=False)

    def send(self, unroll: FinishedUnroll) -> None:
        reference: GradientReference = unroll.contribution
        receipt, weights = self._process.add.options(num_returns=2).remote(reference.envelope, reference.gradient)
        self._pending.append((receipt, weights))

    def receipts(self, *, at_most_pending: int) -> list[Receipt]:
        receipts: list[Receipt] = []
        while self._pending:
            reference, weights = self._pending[0]
            must_wait = len(self._pending) > at_most_pending
            ready, _ = ray.wait([reference], num_returns=1, timeout=None if must_wait else 0, fetch_local=False)
            if not ready:
                break
            self._pending.popleft()
            try:
                receipt: Receipt = ray.get(reference)
            except RayActorError:
                self._replace()
                break
            except RayTaskError as failure:
                if isinstance(failure.cause, ray.exceptions.ObjectLostError):  # its node died before it was added
                    continue
                raise
            self._last = receipt.counters
            if receipt.update is not None:
                self.weights = weights
            receipts.append(receipt)
        return receipts

    def _replace(self) -> None:
        self.restarts += 1
        if self.restarts > self._max_restarts:
            raise FleetError(f"gave up after {self._max_restarts} restarts of the learner (fleet.max_restarts)")
        lost = len(self._pending) + 1
        self._pending.clear()
        self._announce(f"learner restarted from the newest checkpoint; {lost} contributions on their way were lost")
        self._start(self._last)

    def get_state(self) -> dict[str, Any]:
        return ray.get(self._process.get_state.remote())

    def close(self) -> None:
        ray.kill(self._process)
