"""The state of a run as a checkpoint holds it, for layouts of a test's own."""

from typing import Any

import torch

from conf.schema import LearnerConfig
from learner.learner import GradientPlan
from r2ac.monitoring.tally import Tally
from rtrl_core import ParameterLayout


def learner_state(layout: ParameterLayout, *, steps: int = 100, version: int = 7) -> dict[str, Any]:
    """``Learner.get_state`` after a few updates with Adam."""
    state = GradientPlan(LearnerConfig(), layout, 32, 1000).first_state(torch.arange(layout.size, dtype=torch.float32))
    state["counters"] |= {"agent_steps": steps, "version": version}
    state["seen"] = {"0": [2, 11]}
    state["optimizer"] = {
        "step": torch.tensor(float(version)),
        "exp_avg": torch.zeros(layout.size),
        "exp_avg_sq": torch.ones(layout.size),
    }
    return state


def progress(*levels: str) -> dict[str, Any]:
    """What the training loop keeps, of a run with these levels."""
    tally = Tally(levels, 1000).get_state() | {"recent": [1.0, 2.5], "env_counters": {"engine_restarts": 1.0}}
    tally["recent_by_level"] = {str(number): [0.5] for number in range(len(levels))}
    return {"tally": tally, "restarts": {"actor": 1, "learner": 0}, "sinks": {"WandbSink": {"run_id": "0a1b2c3d"}}}
