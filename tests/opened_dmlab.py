"""DeepMind Lab environments that a test has opened and that are closed after it."""

from dataclasses import dataclass, field

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
