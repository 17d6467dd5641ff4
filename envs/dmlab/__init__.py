"""DeepMind Lab: single levels and DMLab-30. The engine's module comes from the user; see docs/dmlab.md."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conf.env_schema import EnvConfig
    from envs.base import VectorEnv


def make(config: "EnvConfig", num_envs: int, seed: int) -> "VectorEnv":
    """See ``envs.dmlab.suite.make``; imported here only, because every engine process imports this package."""
    from envs.dmlab import suite

    return suite.make(config, num_envs, seed)
