"""R2AC that keeps books: ``algorithm=benchmarks.chaos.audited:Audited algorithm.options.folder=PATH``.

Actors write down what they ship and under which weights it was made, aggregators what they add up, the learner what it judges, adds and
updates with, and what it begins with and hands out to be saved. Contributions and sums are known by checksums. Actors also do what they
are ordered to (``orders``): ship what is not finite, ship something twice, ship late, or use up memory.
"""

import json
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from actors.actor import Actor
from actors.worker import ActorIdentity, Worker
from benchmarks.chaos.ledger import Ledger
from conf.schema import LearnerConfig, TrainConfig
from envs.base import EnvSpec
from learner.algorithms import R2AC, Algorithm
from learner.judge import Judgement
from learner.learner import GradientPlan, Learner
from learner.receipts import Counters, Receipt, Update
from learner.sums import Adder, GradientSum
from rtrl_core import ContributionHeader, GradientContribution, ParameterLayout, UnrollStatistics, WeightsSnapshot
from rtrl_core.shapes import Tensor

ORDERS = "orders"


class Kind(StrEnum):
    """What an actor can be ordered to do to a contribution."""

    NOT_FINITE = "not finite"
    TWICE = "twice"
    LATE = "late"
    MEMORY = "memory"


class Order(NamedTuple):
    """To whichever actor finds it first."""

    kind: Kind
    seconds: float = 0.0
    megabytes: int = 0


def give(folder: Path, number: int, order: Order) -> None:
    """Leaves an order where actors look before each unroll."""
    place = folder / ORDERS
    place.mkdir(parents=True, exist_ok=True)
    hidden = place / f".{number:08d}"
    hidden.write_text(json.dumps(order._asdict()))
    hidden.rename(place / f"{number:08d}.json")


def take(folder: Path) -> Order | None:
    """The oldest order that nobody else has taken."""
    place = folder / ORDERS
    for name in sorted(os.listdir(place)) if place.is_dir() else []:
        if name.endswith(".json"):
            mine = place / f".{name}.{os.getpid()}"
            with suppress(FileNotFoundError):
                (place / name).rename(mine)
                order = json.loads(mine.read_text())
                mine.unlink()
                return Order(Kind(order["kind"]), order["seconds"], order["megabytes"])
    return None


@dataclass(frozen=True, slots=True)
class Audited(Algorithm[GradientContribution]):
    name: ClassVar[str] = "audited"
    follows: ClassVar[bool] = R2AC.follows
    knows_its_own: ClassVar[bool] = R2AC.knows_its_own
    adds_up: ClassVar[bool] = R2AC.adds_up

    folder: str = "audit"
    """Of the books and the orders; the same for all processes."""

    def require(self, config: TrainConfig) -> None:
        R2AC().require(config)

    def worker(
        self, config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None
    ) -> Worker[GradientContribution]:
        return AuditedActor(R2AC().worker(config, identity, state), Path(self.folder))

    def plan(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> "AuditedPlan":
        plan = R2AC().plan(config, spec, layout)
        return AuditedPlan(plan.config, plan.layout, plan.batch_segments, plan.total_steps, self.folder)


class AuditedActor:
    """An actor, and what it ships."""

    def __init__(self, actor: Actor, folder: Path) -> None:
        self._actor, self._folder = actor, folder
        self.identity = actor.identity
        self._ledger = Ledger(folder, "actor")
        self._last: GradientContribution | None = None

    @property
    def layout(self) -> str:
        return self._actor.layout

    def unroll(self, weights: WeightsSnapshot) -> GradientContribution:
        order = take(self._folder)
        if order is not None and order.kind is Kind.TWICE and self._last is not None:
            self._write_down(self._last, Kind.TWICE)
            return self._last
        contribution = self._actor.unroll(weights)
        if order is not None:
            contribution = obey(order, contribution)
        self._write_down(contribution, None if order is None or order.kind is Kind.TWICE else order.kind)
        self._last = contribution
        return contribution

    def _write_down(self, contribution: GradientContribution, fault: Kind | None) -> None:
        made_at = checksum(self._actor.parameters.vector)
        self._ledger.write("shipped", job=job(), **described(contribution), weights=made_at, fault=fault)

    def get_state(self) -> dict[str, Any] | None:
        return self._actor.get_state()

    def close(self) -> None:
        self._actor.close()


def obey(order: Order, contribution: GradientContribution) -> GradientContribution:
    """What is shipped in the place of a contribution."""
    match order.kind:
        case Kind.NOT_FINITE:
            gradient = contribution.gradient.clone()
            gradient[contribution.header.sequence % gradient.numel()] = torch.nan
            return replace(contribution, gradient=gradient)
        case Kind.MEMORY:
            held = torch.ones(order.megabytes * 2**20, dtype=torch.uint8)  # touched, and so there
            time.sleep(order.seconds)
            del held
        case Kind.LATE:
            time.sleep(order.seconds)
        case Kind.TWICE:
            pass
    return contribution


@dataclass(frozen=True, slots=True)
class AuditedPlan(GradientPlan):
    folder: str

    def begin(self, vector: Tensor) -> "AuditedLearner":
        return AuditedLearner(
            self.config,
            self.layout,
            vector,
            batch_segments=self.batch_segments,
            total_steps=self.total_steps,
            folder=Path(self.folder),
        )

    def adder(self) -> "AuditedAdder":
        return AuditedAdder(self.config, self.layout, Path(self.folder))


class AuditedAdder(Adder):
    """Arguments as ``Adder``."""

    def __init__(self, config: LearnerConfig, layout: ParameterLayout, folder: Path) -> None:
        super().__init__(config, layout)
        self._folder = folder
        self._ledger: Ledger | None = None
        """Of the process that adds, and not of the one that made this."""

    def _judge(self, contribution: GradientContribution, version: int) -> Judgement:
        judgement = super()._judge(contribution, version)
        if judgement.weight:
            self._ledger = self._ledger or Ledger(self._folder, "aggregator")
            what = {**described(contribution), **summed(contribution.gradient)}
            self._ledger.write("added up", job=job(), weight=judgement.weight, **what)
        return judgement


class AuditedLearner(Learner):
    """Arguments as ``Learner``."""

    def __init__(self, *args: Any, folder: Path, **named: Any) -> None:
        super().__init__(*args, **named)
        self._ledger = Ledger(folder, "learner")

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._write_down(
            "began", counters=asdict(self.counters), max_lag=self._config.max_lag, **summed(self._sum.vector())
        )

    def continue_from(self, last: Counters) -> None:
        super().continue_from(last)
        self._write_down("continued", after=asdict(last), **summed(self._sum.vector()))

    def resize(self, batch_segments: int, max_lag: int) -> None:
        super().resize(batch_segments, max_lag)
        self._write_down("resized", max_lag=max_lag)

    def get_state(self) -> dict[str, Any]:
        self._write_down("saved")
        return super().get_state()

    def _learn(self, contribution: GradientContribution, judgement: Judgement) -> tuple[Judgement, UnrollStatistics]:
        judged, statistics = super()._learn(contribution, judgement)
        if judged.weight:
            what = {**described(contribution), **summed(contribution.gradient)}
            self._ledger.write("added", weight=judged.weight, **what)
        return judged, statistics

    def _take(self, arrived: GradientSum, weight: float) -> None:
        super()._take(arrived, weight)
        parts = [
            {**named(header), "version": header.policy_version, "steps": header.num_steps} for header in arrived.headers
        ]
        vector = arrived.gradient if arrived.rest is None else arrived.gradient + arrived.rest
        steps = sum(header.num_steps for header in arrived.headers)
        self._ledger.write("added sum", of=parts, weight=weight, steps=steps, **summed(vector))

    def _update_with_sum(self) -> Update:
        total = summed(self._sum.vector())
        update = super()._update_with_sum()
        self._write_down("updated", **total)
        return update

    def add(self, contribution: GradientContribution) -> Receipt:
        receipt = super().add(contribution)
        self._write_judged(receipt, in_sum=False)
        return receipt

    def add_sum(self, arrived: GradientSum) -> list[Receipt]:
        receipts = super().add_sum(arrived)
        for receipt in receipts:
            self._write_judged(receipt, in_sum=True)
        return receipts

    def _write_judged(self, receipt: Receipt, *, in_sum: bool) -> None:
        self._ledger.write(
            "judged",
            **named(receipt.header),
            verdict=str(receipt.verdict),
            lag=receipt.lag,
            counters=asdict(receipt.counters),
            in_sum=in_sum,
        )

    def _write_down(self, event: str, **entry: Any) -> None:
        where = {"job": job(), "version": self.counters.version, "weights": checksum(self._vector)}
        self._ledger.write(event, **where, **entry)


def named(header: ContributionHeader) -> dict[str, int]:
    return {"actor": header.actor_id, "start": header.incarnation, "sequence": header.sequence}


def described(contribution: GradientContribution) -> dict[str, Any]:
    header = contribution.header
    made = {"version": header.policy_version, "steps": header.num_steps, "gradient": checksum(contribution.gradient)}
    return {**named(header), **made}


def summed(vector: Tensor) -> Mapping[str, float]:
    """Over all numbers, in double precision, and of their sizes: what says whether one vector is the sum of others."""
    exact = vector.double()
    return {"sum": float(exact.sum()), "size": float(exact.abs().sum())}


def checksum(vector: Tensor) -> int:
    return zlib.crc32(vector.detach().cpu().numpy().tobytes())


def job() -> str:
    """Of the driver that this process works for: versions and starts of actors are counted anew after one was killed."""
    import ray

    return ray.get_runtime_context().get_job_id() if ray.is_initialized() else str(os.getpid())
