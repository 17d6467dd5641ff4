"""Gauges for Prometheus."""

from typing import Any

from r2ac.monitoring.metrics import METRICS, Row, split_name
from r2ac.monitoring.sinks.sink import numbers


class PrometheusSink:
    """Gauges through Ray's metrics agent, which Prometheus scrapes: ``ray_rtrl_NAME{run=...}``, tagged per level or actor.

    Totals are gauges too: a resumed run must not start them at zero again.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Any] = {}

    def write(self, row: Row) -> None:
        import ray

        if not ray.is_initialized():
            return
        for name, value in numbers(row).items():
            metric, tag = split_name(name)
            per = METRICS[metric].per
            tags = {"run": self._run} | ({per: tag} if per else {})
            self._gauge(metric, tuple(tags)).set(value, tags)

    def _gauge(self, metric: str, tag_keys: tuple[str, ...]) -> Any:
        if metric not in self._gauges:
            from ray.util.metrics import Gauge

            self._gauges[metric] = Gauge(f"rtrl_{metric}", description=METRICS[metric].meaning, tag_keys=tag_keys)
        return self._gauges[metric]

    def close(self) -> None:
        pass
