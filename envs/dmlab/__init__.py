"""DeepMind Lab: single levels and DMLab-30. The engine's module comes from the user; see docs/dmlab.md."""

from conf.env_schema import EnvConfig
from envs.base import VectorEnv


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    """See ``envs.dmlab.suite.make``, imported here only, so that engine processes start without it."""
    from envs.dmlab import suite

    return suite.make(config, num_envs, seed)
