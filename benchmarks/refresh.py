"""What an anchored refresh and the measurement of fidelity cost an actor on Breakout: collecting, differentiating and shipping together.

Each unroll gets new weights, as in training: that is when a refresh happens. The learner, whose time would only make the shares smaller,
has no part. All of it is one process with one thread, whose processor time is taken.
"""

import statistics
import time

import torch

from actors.actor import Actor, build_actor
from actors.precision import prepare_process
from actors.worker import ActorIdentity
from benchmarks.measurement import Result, at_most, in_turns, informs
from conf.load import load_train
from rtrl_core import CoreState, WeightsSnapshot

EVERY = 4
"""Unrolls between two refreshes, and of one turn."""
WINDOW = 5
"""Of the refresh, in unrolls."""


def run(seconds: float) -> list[Result]:
    prepare_process(1)
    words = [
        "experiment=atari_breakout_rtrl",
        "network=nature",
        "actors.num_envs=32",
        "fleet=local",
        "fleet.num_actors=1",
    ]
    unroll = load_train(words).actors.unroll
    refresh = [f"rule.refresh={WINDOW * unroll}", f"rule.refresh_every={EVERY}"]
    plain, refreshed = (_Turn([*words, *more, "actors.fidelity_every=0"]) for more in ([], refresh))
    rounds = max(3, round(seconds / 2))
    times = in_turns({"plain": plain, "refreshed": refreshed}, rounds, warmup=2, clock=time.process_time)
    setting = f"Breakout, nature stem, N=256, T={unroll}, one actor of B=32, 1 thread"
    own = refreshed.in_refresh_s / (refreshed.turns * times["refreshed"])
    every = load_train(words).actors.fidelity_every
    one_unroll, measurement = _fidelity([*words, "actors.fidelity_every=1"], rounds)
    return [
        at_most(
            "refresh/share_of_time",
            times["refreshed"] / times["plain"] - 1,
            0.05,
            f"share, W={WINDOW}T every {EVERY}th unroll",
            setting,
        ),
        informs("refresh/own_share_of_time", own, "share, inside the refresh alone", setting),
        informs("refresh/fidelity_ms", 1000 * measurement, "ms, one measurement", setting),
        at_most(
            "refresh/fidelity_share_of_time",
            measurement / (every * one_unroll),
            0.01,
            f"share, every {every} unrolls",
            setting,
        ),
    ]


class _Turn:
    """An actor that takes ``EVERY`` unrolls, each with new weights."""

    def __init__(self, words: list[str]) -> None:
        torch.manual_seed(0)
        self.actor: Actor = build_actor(load_train(words), ActorIdentity(0, 0, 1))
        self._version = 0
        self.turns, self.in_refresh_s = 0, 0.0
        core = self.actor.network.core
        self._refreshed = core.refreshed
        object.__setattr__(core, "refreshed", self._timed)

    def _timed(self, state: CoreState) -> CoreState:
        started = time.process_time()
        state = self._refreshed(state)
        self.in_refresh_s += time.process_time() - started
        return state

    def __call__(self) -> None:
        self.turns += 1
        for _ in range(EVERY):
            self.one()

    def one(self) -> bool:
        """One unroll; whether fidelity was measured in it."""
        self._version += 1
        vector = self.actor.parameters.vector.clone()
        contribution = self.actor.unroll(WeightsSnapshot(self._version, self.actor.layout, vector))
        return contribution.statistics.sensitivity_fidelity_error is not None


def _fidelity(words: list[str], rounds: int) -> tuple[float, float]:
    """Median seconds of an unroll, measurement included, and of a measurement alone."""
    turn = _Turn(words)
    probe = turn.actor._probe
    assert probe is not None
    see, unrolls, seen, measured = probe.see, list[float](), list[float](), list[float]()

    def timed(unroll):
        started = time.process_time()
        figures = see(unroll)
        seen.append(time.process_time() - started)
        return figures

    probe.see = timed
    for _ in range(EVERY * rounds):
        started = time.process_time()
        found = turn.one()
        unrolls.append(time.process_time() - started)
        if found:
            measured.append(seen[-1])
    return statistics.median(unrolls), statistics.median(measured or [0.0])
