"""DeepMind Lab environments that a test has opened and that are closed after it; their engines and what the stand-in's pictures say."""

import os
import signal
import time
from dataclasses import dataclass, field

import numpy as np
import psutil

from conf.env_schema import DMLabConfig
from envs.base import VectorEnv
from envs.dmlab.environment import DMLabEnv
from envs.dmlab.suite import make

STREAMS = 3


@dataclass
class Opened:
    """Opens environments; the fixture of the same name closes them."""

    envs: list[VectorEnv] = field(default_factory=list)

    def __call__(self, config: DMLabConfig, seed: int = 1, streams: int = STREAMS) -> DMLabEnv:
        env = make(config, streams, seed)
        assert isinstance(env, DMLabEnv)
        self.envs.append(env)
        return env


def kill(pid: int) -> None:
    """Waits until its ends of pipes are closed: an engine that was not scheduled since is killed, and has not died."""
    os.kill(pid, signal.SIGKILL)
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)


def labels(pictures: np.ndarray) -> np.ndarray:
    """What the stand-in writes into its pictures, ``[B]``."""
    import deepmind_lab

    return np.array([deepmind_lab.label(picture) for picture in pictures])


def wait_for_spares(env: DMLabEnv) -> None:
    supervisor = env._supervisor
    supervisor._wait_until(lambda: not any(engine.busy for engine in supervisor._prepared))
