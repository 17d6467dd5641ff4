"""An environment suite of your own, through the whole program: training, evaluation, and nothing of ours changed.

    python examples/own_environment.py [run folder]

The same on the command line, from this folder: ``rtrl-train env=own_environment:ECHO env.delay=2 network=none fleet=local``.
"""

import sys
from dataclasses import dataclass

import numpy as np

from conf.env_schema import EnvConfig
from conf.knobs import knob
from envs.base import Discrete, EnvSpec, Timestep, VectorEnv
from envs.suite import Suite


@dataclass
class EchoConfig(EnvConfig):
    """Say what was shown some steps ago; an episode is forty steps."""

    name: str = knob("echo", "name shown in tables")
    delay: int = knob(1, "steps between a symbol and its echo", minimum=0, maximum=30)
    reward_clip: str = knob("none", "what the loss sees of a reward", choices=("none", "abs_one", "asymmetric"))


class Echo(VectorEnv):
    """All streams at once, in numpy. ``envs/base.py`` says what a timestep is."""

    SYMBOLS, LENGTH = 3, 40

    def __init__(self, config: EchoConfig, num_envs: int, seed: int) -> None:
        self.num_envs, self.delay = num_envs, config.delay
        self.spec = EnvSpec("echo/echo", (self.SYMBOLS,), "float32", "vector", Discrete(self.SYMBOLS))
        self.random = np.random.default_rng(seed)
        self.clock = 0
        self.shown = [self.draw()]

    def draw(self) -> np.ndarray:
        return self.random.integers(0, self.SYMBOLS, self.num_envs)

    def observe(self) -> np.ndarray:
        return np.eye(self.SYMBOLS, dtype=np.float32)[self.shown[-1]]

    def reset(self) -> Timestep:
        no = np.zeros(self.num_envs, bool)
        return Timestep(self.observe(), np.zeros(self.num_envs, np.float32), no, no, is_first=~no, valid=no)

    def step(self, actions: np.ndarray) -> Timestep:
        old = len(self.shown) - 1 - self.delay
        right = actions == self.shown[old] if old >= 0 else np.zeros(self.num_envs, bool)
        self.clock += 1
        over = np.full(self.num_envs, self.clock == self.LENGTH)
        if self.clock == self.LENGTH:  # the timestep that reports the end already shows the next episode's start
            self.clock, self.shown = 0, []
        self.shown.append(self.draw())
        return Timestep(
            self.observe(),
            right.astype(np.float32),
            terminated=over,
            truncated=np.zeros_like(over),
            is_first=over.copy(),
            valid=np.ones_like(over),
        )


ECHO = Suite(EchoConfig, make=Echo)


def main(run_dir: str = "runs/echo") -> int:
    """Trains for a few seconds, then evaluates what was learned; returns the exit status."""
    from r2ac.commands import evaluate, train

    status = train.main(
        [
            *("env=own_environment:ECHO", "env.delay=1", "network=none", "network.num_units=32", f"run_dir={run_dir}"),
            *("fleet=local", "fleet.num_actors=1", "actors.num_envs=32", "actors.unroll=10", "logging=quiet"),
            *("learner=adam", "learner.learning_rate=0.02", "learner.batch_segments=32", "total_steps=100_000"),
            *("loss.discount=0", "loss.entropy_cost=0.001"),  # each answer is paid at once
        ]
    )
    # What is stored imports nothing: the module is said again.
    words = ["episodes=8", "policy=greedy", "env=own_environment:ECHO"]
    return status or evaluate.main([f"checkpoint={run_dir}", *words])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
