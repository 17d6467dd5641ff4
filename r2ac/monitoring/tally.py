"""From receipts to one log row per interval. Every name it writes is a key of ``METRICS``."""

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import psutil

from learner.receipts import Counters, Receipt, Verdict
from r2ac.monitoring.metrics import Row
from rtrl_core import UnrollStatistics

RECENT_EPISODES = 100
MANY_ACTORS = 64
"""Above which a row has the spread of their speeds instead of each."""
SLOWEST = 10
LEARNED = (Verdict.ACCEPTED, Verdict.DAMPED)
FIDELITIES = tuple(f"{what}_fidelity_{how}" for what in ("sensitivity", "rule") for how in ("cosine", "error"))
"""Fields of ``UnrollStatistics`` that most unrolls leave empty."""


class Tally:
    """Adds up what happens between two log rows, and over the run.

    Args:
        levels: names of a multi-task suite's levels.
        total_steps: of the run, for progress and time left.
        own_processes: whether actors have memory of their own, beside this process.
    """

    def __init__(self, levels: tuple[str, ...], total_steps: int, own_processes: bool = True) -> None:
        self._levels = levels
        self._total_steps = total_steps
        self._own_processes = own_processes
        self._recent: deque[float] = deque(maxlen=RECENT_EPISODES)
        self._recent_by_level: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT_EPISODES))
        self._level_steps = np.zeros(len(levels), np.int64)
        self._episodes = 0
        self._streams_reset = 0
        self._lag_max = 0
        self.elapsed_before_s = 0.0
        """Spent training in earlier starts of the run."""
        self._peak_rss = 0
        self._env_counters: dict[int, dict[str, float]] = {}
        self._env_counters_lost: dict[str, float] = defaultdict(float)
        self._incarnations: dict[int, int] = {}
        self.counters = Counters()
        self._process = psutil.Process()
        self.start()

    def start(self) -> None:
        """What came before was preparation. Speeds are measured from the first contributions on: those took as long as starting did."""
        self._started = time.monotonic()
        self._opened = False
        self._clear()

    def _clear(self) -> None:
        self._interval_start = time.monotonic()
        self._receipts: list[Receipt] = []
        self._opening = 0
        """Receipts of the interval that came when it had no length yet."""
        self._at_start = self.counters

    def add(self, receipts: Iterable[Receipt]) -> None:
        for receipt in receipts:
            self._receipts.append(receipt)
            self.counters = receipt.counters
            self._lag_max = max(self._lag_max, receipt.lag)
            statistics = receipt.statistics
            self._streams_reset += statistics.streams_reset
            for episode in statistics.episodes:
                self._episodes += 1
                self._recent.append(episode.episode_return)
                if episode.level is not None:
                    self._recent_by_level[episode.level].append(episode.episode_return)
            if statistics.level_steps:
                self._level_steps += np.array(statistics.level_steps)
            self._remember_env_counters(receipt)
        if self._receipts and not self._opened:
            self._opened, self._opening = True, len(self._receipts)
            self._interval_start, self._at_start = time.monotonic(), self.counters

    def _remember_env_counters(self, receipt: Receipt) -> None:
        """Counters of an environment start at zero again with each incarnation of its actor: totals must not."""
        actor_id, incarnation = receipt.header.actor_id, receipt.header.incarnation
        if self._incarnations.get(actor_id, incarnation) != incarnation:
            for name, value in self._env_counters.pop(actor_id, {}).items():
                self._env_counters_lost[name] += value
        self._incarnations[actor_id] = incarnation
        self._env_counters[actor_id] = receipt.statistics.env_counters

    @property
    def mean_return(self) -> float | None:
        return sum(self._recent) / len(self._recent) if self._recent else None

    def row(self, extra: Row, actor_ids: Sequence[int] = ()) -> Row:
        """Closes the interval and returns its row.

        Args:
            extra: gauges of the machinery (restarts, object store, ...).
            actor_ids: of the fleet, those too that sent nothing.
        """
        now = time.monotonic()
        counters, before, receipts = self.counters, self._at_start, self._receipts
        timed = receipts[self._opening :]
        begun = self._opened and (bool(timed) or not self._opening)
        seconds = max(now - self._interval_start, 1e-9) if begun else None
        steps = counters.agent_steps - before.agent_steps
        steps_per_second = _rate(steps, seconds)
        elapsed = self.elapsed_before_s + now - self._started
        self._peak_rss = max(self._peak_rss, self._rss_of_run())
        left = max(0, self._total_steps - counters.agent_steps)
        row: Row = {
            "agent_steps": counters.agent_steps,
            "frames": counters.frames,
            "updates": counters.updates,
            "policy_version": counters.version,
            "wall_time_s": elapsed,
            "progress": min(1.0, counters.agent_steps / self._total_steps),
            "eta_s": left / steps_per_second if steps_per_second else None,
            "steps_per_second": steps_per_second,
            "frames_per_second": _rate(counters.frames - before.frames, seconds),
            "mean_return_100": self.mean_return,
            "episodes": self._episodes,
            "contributions_accepted": counters.accepted,
            "contributions_damped": counters.damped,
            "contributions_dropped": counters.dropped,
            "contributions_refused": counters.refused,
            "streams_reset": self._streams_reset,
            "policy_lag_max": self._lag_max,
            "wire_bytes_per_second": _rate(counters.wire_bytes - before.wire_bytes, seconds),
            "wire_bytes_per_step": (counters.wire_bytes - before.wire_bytes) / steps if steps else None,
            "learner_idle_share": max(0.0, 1.0 - sum(receipt.busy_s for receipt in timed) / seconds)
            if seconds
            else None,
            "rss_bytes": self._process.memory_info().rss,
            "peak_rss_bytes": self._peak_rss,
            **self._of_unrolls(receipts),
            **self._of_updates(receipts),
            **self._of_actors(receipts),
            **self._speed_of_each(timed, seconds, actor_ids),
            **self._of_levels(timed, seconds),
            **self._of_environments(),
            **extra,
        }
        self._clear()
        return row

    def _of_unrolls(self, receipts: list[Receipt]) -> Row:
        if not receipts:
            return {}
        statistics = [receipt.statistics for receipt in receipts]
        lags = [receipt.lag for receipt in receipts]
        lengths = [episode.length for part in statistics for episode in part.episodes]
        returns = [episode.episode_return for part in statistics for episode in part.episodes]
        ages = [part.sensitivity_age_mean for part in statistics]
        return {
            "dropped_share": sum(receipt.verdict is Verdict.DROPPED for receipt in receipts) / len(receipts),
            "policy_lag_mean": float(np.mean(lags)),
            "policy_lag_p95": float(np.percentile(lags, 95)),
            "sensitivity_age_mean": float(np.mean(ages)),
            "sensitivity_age_p95": float(np.percentile(ages, 95)),
            "sensitivity_age_max": max(part.sensitivity_age_max for part in statistics),
            "sensitivity_norm": float(np.mean([part.sensitivity_norm for part in statistics])),
            "sensitivity_norm_max": max(part.sensitivity_norm_max for part in statistics),
            "core_inputs_rms": self._of_inputs(statistics),
            **self._of_fidelity(statistics),
            **self._of_policies([receipt.statistics for receipt in receipts if receipt.verdict in LEARNED]),
            **self._of_losses(
                [receipt for receipt in receipts if receipt.verdict in LEARNED and receipt.statistics.losses_known]
            ),
            "episode_length_mean": float(np.mean(lengths)) if lengths else None,
            "episode_return_mean": float(np.mean(returns)) if returns else None,
        }

    @staticmethod
    def _of_inputs(statistics: list[UnrollStatistics]) -> float | None:
        sizes = [part.core_inputs_rms for part in statistics if part.core_inputs_rms is not None]
        known = [size for size in sizes if math.isfinite(size)]
        return float(np.sqrt(np.mean(np.square(known)))) if known else None

    @staticmethod
    def _of_losses(receipts: list[Receipt]) -> Row:
        """Of what was learned from: of the rest a learner that computes the gradient itself knows no loss."""
        if not receipts:
            return {}
        statistics = [receipt.statistics for receipt in receipts]
        steps = max(1, sum(receipt.header.num_steps for receipt in receipts))
        mean_target = sum(part.target_sum for part in statistics) / steps
        variance = sum(part.target_square_sum for part in statistics) / steps - mean_target**2
        error = sum(part.error_square_sum for part in statistics) / steps
        return {
            "policy_loss": sum(part.policy_loss for part in statistics) / steps,
            "value_loss": sum(part.value_loss for part in statistics) / steps,
            "entropy": sum(part.entropy for part in statistics) / steps,
            "explained_variance": 1.0 - error / variance if variance > 1e-12 else None,
            "target_rms": math.sqrt(sum(part.target_square_sum for part in statistics) / steps),
        }

    @staticmethod
    def _of_policies(statistics: list[UnrollStatistics]) -> Row:
        """How far apart policies are: that which acted and that which learns, and that of an actor's unroll and of its next."""
        known = [part for part in statistics if part.importance_sum is not None]
        steps = sum(part.importance_steps for part in known)
        streams = sum(part.policy_change_streams for part in statistics)
        return {
            "importance_mean": _mean(sum(part.importance_sum or 0.0 for part in known), steps),
            "importance_clipped_share": _mean(sum(part.importance_clipped for part in known), steps),
            "importance_kl": _mean(sum(part.divergence_sum for part in known), steps),
            "policy_change_kl": _mean(sum(part.policy_change_sum for part in statistics), streams),
            "clip_ratio_exceeded_share": _mean(
                sum(part.clip_ratio_exceeded or 0 for part in known),
                sum(part.importance_steps for part in known if part.clip_ratio_exceeded is not None),
            ),
        }

    @staticmethod
    def _of_fidelity(statistics: list[UnrollStatistics]) -> Row:
        """Means over the unrolls that were looked at; without such, no value."""
        row: Row = {}
        for name in FIDELITIES:
            found = [value for part in statistics if (value := getattr(part, name)) is not None]
            row[name] = float(np.mean(found)) if found else None
        return row

    def _of_updates(self, receipts: list[Receipt]) -> Row:
        updates = [receipt.update for receipt in receipts if receipt.update is not None]
        if not updates:
            return {}
        parts: Row = {
            f"gradient_norm_{part}": float(np.mean([update.part_norms[part] for update in updates]))
            for part in updates[0].part_norms
        }
        norm = float(np.mean([update.gradient_norm for update in updates]))
        gauges: Row = {
            name: float(np.mean([update.gauges[name] for update in updates if name in update.gauges]))
            for name in sorted({name for update in updates for name in update.gauges})
        }
        return {"gradient_norm": norm, "learning_rate": updates[-1].learning_rate, **parts, **gauges}

    def _of_actors(self, receipts: list[Receipt]) -> Row:
        """Shares of the actors' time."""
        if not receipts:
            return {}
        times = {
            "env_share": sum(receipt.statistics.env_time_s for receipt in receipts),
            "act_share": sum(receipt.statistics.act_time_s for receipt in receipts),
            "learn_share": sum(receipt.statistics.learn_time_s for receipt in receipts),
            "actor_wait_share": sum(receipt.statistics.wait_time_s for receipt in receipts),
        }
        total = sum(times.values()) or 1.0
        row: Row = {name: value / total for name, value in times.items()}
        all_steps = max(1, sum(receipt.header.num_steps for receipt in receipts))
        row["bfloat16_share"] = sum(part.header.num_steps for part in receipts if part.statistics.bfloat16) / all_steps
        recorded = sum(part.header.num_steps for part in receipts if part.statistics.cuda_graphs)
        row["cuda_graphs_share"] = recorded / all_steps
        row["actor_rss_bytes_max"] = max(receipt.statistics.rss_bytes for receipt in receipts)
        return row

    def _speed_of_each(self, receipts: list[Receipt], seconds: float | None, actor_ids: Sequence[int]) -> Row:
        """Actor by actor; of a large fleet their spread and the slowest, so that a row does not grow with it."""
        is_large = len(actor_ids) > MANY_ACTORS
        steps: dict[int, int] = defaultdict(int, dict.fromkeys(actor_ids, 0) if is_large else {})
        for receipt in receipts:
            steps[receipt.header.actor_id] += receipt.header.num_steps
        speeds = {actor_id: _rate(count, seconds) for actor_id, count in sorted(steps.items())}
        if not is_large:
            return {f"actor_steps_per_second/{actor_id}": speed for actor_id, speed in speeds.items()}
        known = {actor_id: speed for actor_id, speed in speeds.items() if speed is not None}
        if not known:
            return {}
        row: Row = {
            f"actor_steps_per_second_p{percent}": float(np.percentile(list(known.values()), percent))
            for percent in (5, 50, 95)
        }
        for rank, actor_id in enumerate(sorted(known, key=lambda one: known[one])[:SLOWEST], start=1):
            row[f"slowest_actor/{rank}"] = actor_id
            row[f"slowest_actor_steps_per_second/{rank}"] = known[actor_id]
        return row

    def _of_levels(self, receipts: list[Receipt], seconds: float | None) -> Row:
        if not self._levels:
            return {}
        in_interval = sum(
            (np.array(receipt.statistics.level_steps) for receipt in receipts), np.zeros(len(self._levels))
        )
        row: Row = {}
        for index, level in enumerate(self._levels):
            returns = self._recent_by_level[index]
            row[f"level_return/{level}"] = sum(returns) / len(returns) if returns else None
            row[f"level_steps/{level}"] = int(self._level_steps[index])
            row[f"level_steps_per_second/{level}"] = _rate(float(in_interval[index]), seconds)
        return row

    def _of_environments(self) -> Row:
        totals = defaultdict(float, self._env_counters_lost)
        for counters in self._env_counters.values():
            for name, value in counters.items():
                totals[name] += value
        return dict(totals)

    def _rss_of_run(self) -> int:
        actors = {receipt.header.actor_id: receipt.statistics.rss_bytes for receipt in self._receipts}
        return self._process.memory_info().rss + (sum(actors.values()) if self._own_processes else 0)

    def get_state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "episodes": self._episodes,
            "streams_reset": self._streams_reset,
            "recent": list(self._recent),
            "recent_by_level": {str(level): list(returns) for level, returns in self._recent_by_level.items()},
            "level_steps": self._level_steps.tolist(),
            "levels": list(self._levels),
            "lag_max": self._lag_max,
            "elapsed_s": self.elapsed_before_s + time.monotonic() - self._started,
            "peak_rss_bytes": self._peak_rss,
            "env_counters": dict(self._of_environments()),
        }

    def set_state(self, state: dict[str, Any], counters: Counters) -> None:
        """Goes on from ``get_state``, which is empty if what was counted is of another environment; levels are known by their names."""
        self.counters = self._at_start = counters
        if not state:
            return
        self._episodes = state["episodes"]
        self._streams_reset = state.get("streams_reset", 0)  # checkpoints of earlier versions do not count them
        self._recent.extend(state["recent"])
        theirs = state.get("levels", list(self._levels))
        for number, level in enumerate(self._levels):
            if level in theirs:
                before = theirs.index(level)
                self._recent_by_level[number].extend(state["recent_by_level"].get(str(before), []))
                self._level_steps[number] = state["level_steps"][before]
        self._lag_max = state["lag_max"]
        self.elapsed_before_s = state["elapsed_s"]
        self._peak_rss = state["peak_rss_bytes"]
        self._env_counters_lost.update(state["env_counters"])


def _mean(total: float | int, count: int) -> float | None:
    """``None`` of nothing."""
    return total / count if count else None


def _rate(amount: float | int, seconds: float | None) -> float | None:
    """Per second; ``None`` where no time has been measured."""
    return None if seconds is None else amount / seconds
