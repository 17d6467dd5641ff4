"""An environment whose every observation says which stream, episode and step it is, in both auto-reset habits.

It keeps the contract of ``envs.base`` and checks that its caller does; its ledger lists every transition that really happened.
"""

from typing import Any, Literal

import numpy as np

from conf.env_schema import EnvConfig
from envs.base import Discrete, EnvironmentFailure, EnvSpec, Timestep, VectorEnv

EPISODE = 1000.0


class CountingEnv(VectorEnv):
    """Observation ``[stream, episode, step]``, reward ``1000 episode + step`` of the step that was left; episodes of 1 to 6 steps.

    Args:
        habit: ``same_step`` shows the next episode at once; ``next_step`` shows the final observation and spends a step on the reset.
        first_stream: number of the first stream, so that two environments of B are one of 2B.
        fail_at: step at which it dies, once.
        instructed: gives an instruction of one word, the number of the episode, counted from 1.
    """

    def __init__(
        self,
        num_envs: int,
        seed: int,
        habit: Literal["same_step", "next_step"] = "same_step",
        first_stream: int = 0,
        fail_at: int | None = None,
        lengths: tuple[int, int] = (1, 6),
        instructed: bool = False,
    ) -> None:
        self.num_envs = num_envs
        self.spec = EnvSpec(
            "counting/counting",
            (3,),
            "float32",
            "vector",
            Discrete(3),
            action_repeat=2,
            instruction_length=1 if instructed else 0,
        )
        self.habit = habit
        self.ledger: list[tuple[int, int, int, bool, bool]] = []
        """``(stream, episode, step, terminated, truncated)`` of every transition."""
        self._streams = np.arange(first_stream, first_stream + num_envs)
        self._randoms = [np.random.default_rng([seed, int(stream)]) for stream in self._streams]
        self._lengths = lengths
        self._episode = np.full(num_envs, -1)
        self._step = np.zeros(num_envs, np.int64)
        self._length = np.zeros(num_envs, np.int64)
        self._cut = np.zeros(num_envs, bool)
        self._over = np.zeros(num_envs, bool)
        self._steps_taken = 0
        self._fail_at = fail_at
        self._started = False

    def _begin(self, index: int) -> None:
        self._episode[index] += 1
        self._step[index] = 0
        self._length[index] = self._randoms[index].integers(self._lengths[0], self._lengths[1], endpoint=True)
        self._cut[index] = self._randoms[index].random() < 0.5
        self._over[index] = False

    def _observe(self) -> np.ndarray:
        return np.stack([self._streams, self._episode, self._step], axis=1).astype(np.float32)

    def _instruct(self) -> np.ndarray | None:
        return self._episode[:, None] + 1 if self.spec.instruction_length else None

    def reset(self) -> Timestep:
        assert not self._started, "reset is called once"
        self._started = True
        for index in range(self.num_envs):
            self._begin(index)
        no = np.zeros(self.num_envs, bool)
        return Timestep(
            self._observe(), np.zeros(self.num_envs, np.float32), no, no, ~no, no, instruction=self._instruct()
        )

    def step(self, actions: np.ndarray) -> Timestep:
        assert self._started, "step before reset"
        assert actions.shape == (self.num_envs,), actions.shape
        assert actions.dtype == np.int64, actions.dtype
        assert ((actions >= 0) & (actions < 3)).all(), actions
        self._steps_taken += 1
        if self._steps_taken == self._fail_at:
            raise EnvironmentFailure("the counting environment was told to fail")
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated, is_first, valid = (np.zeros(self.num_envs, bool) for _ in range(4))
        final, final_instruction = np.zeros((self.num_envs, 3), np.float32), self._instruct()
        for i in range(self.num_envs):
            if self._over[i]:  # next_step: this step only resets, whatever the action
                self._begin(i)
                is_first[i] = True
                continue
            valid[i] = True
            reward[i] = EPISODE * self._episode[i] + self._step[i]
            last = self._step[i] == self._length[i] - 1
            terminated[i], truncated[i] = last and not self._cut[i], last and self._cut[i]
            transition = (self._streams[i], self._episode[i], self._step[i], terminated[i], truncated[i])
            self.ledger.append(
                (int(transition[0]), int(transition[1]), int(transition[2]), bool(transition[3]), bool(transition[4]))
            )
            self._step[i] += 1
            if last and self.habit == "same_step":
                final[i] = self._observe()[i]
                self._begin(i)
                is_first[i] = True
            elif last:
                self._over[i] = True
        has_final = self.habit == "same_step" and truncated.any()
        return Timestep(
            self._observe(),
            reward,
            terminated,
            truncated,
            is_first,
            valid,
            final if has_final else None,
            instruction=self._instruct(),
            final_instruction=final_instruction if has_final else None,
        )

    def get_state(self) -> dict[str, Any] | None:
        return None


def config() -> EnvConfig:
    """A section for actors that are given this environment directly."""
    return EnvConfig(suite="counting", name="counting", reward_clip="none")
