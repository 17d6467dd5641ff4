"""A suite as a user writes it: ``env=own_suites:LIGHTS/dim``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from conf.env_schema import EnvConfig
from conf.knobs import knob
from envs.base import Discrete, EnvSpec, Timestep, UnknownEnvironment, VectorEnv
from envs.suite import DoctorCheck, EvaluationProtocol, Finding, Play, Suite, SuiteScore


@dataclass
class LightsConfig(EnvConfig):
    """Switch on the lamp that blinks; each is an episode."""

    name: str = knob("bright", "bright or dim: what a right answer earns")
    lamps: int = knob(2, "lamps to choose from", minimum=2, maximum=9)
    wiring: str = knob("", "file of the wiring", place=True)


class Lights(VectorEnv):
    def __init__(self, config: LightsConfig, num_envs: int, seed: int) -> None:
        if config.name not in ("bright", "dim"):
            raise UnknownEnvironment(f"unknown lights {config.name!r}: expected bright or dim")
        self.num_envs = num_envs
        self.spec = EnvSpec(f"lights/{config.name}", (config.lamps,), "float32", "vector", Discrete(config.lamps))
        self._worth = 2.0 if config.name == "bright" else 1.0
        self._random = np.random.default_rng(seed)

    def reset(self) -> Timestep:
        no = np.zeros(self.num_envs, bool)
        return Timestep(self._next(), np.zeros(self.num_envs, np.float32), no, no, ~no, no)

    def step(self, actions: np.ndarray) -> Timestep:
        reward = np.where(actions == self._blinks, self._worth, 0).astype(np.float32)
        yes = np.ones(self.num_envs, bool)
        return Timestep(self._next(), reward, yes, ~yes, yes, yes)

    def _next(self) -> np.ndarray:
        self._blinks = self._random.integers(0, self.spec.actions.num_actions, self.num_envs)  # pyright: ignore
        return np.eye(self.spec.actions.num_actions, dtype=np.float32)[self._blinks]  # pyright: ignore

    def render(self, index: int) -> np.ndarray:
        return np.full((32, 32, 3), 100 * self._blinks[index], np.uint8)


def make(config: LightsConfig, num_envs: int, seed: int) -> Lights:
    return Lights(config, num_envs, seed)


def protocol(config: LightsConfig) -> EvaluationProtocol:
    splits = {
        name: replace(config, name=name) for name in (config.name, "dim" if config.name == "bright" else "bright")
    }
    return EvaluationProtocol(splits, episodes=4, runs=2, policy="sampled")


def score(spec: EnvSpec, split: str, mean_return: float) -> float | None:
    return 100 * mean_return / 2 if split == "bright" else None


def further_findings(play: Play, options: Mapping[str, str]) -> Iterator[Finding]:
    yield replace(play("dim", {"lamps": "3"}), name="dim lights")
    yield Finding("wiring", "missing", options.get("wiring", "no file was given"), "draw it")


LIGHTS = Suite(
    LightsConfig,
    make,
    protocol=protocol,
    split_score=score,
    suite_score=SuiteScore(
        "lights", "Lights", "games of all splits", lambda returns: float(sum(map(len, returns.values())))
    ),
    check=DoctorCheck("change the bulb", more=further_findings),
)
NO_SUITE = 3
