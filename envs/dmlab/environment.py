"""DeepMind Lab as a vector environment: one level, or many for one network.

Where an episode ends, the stream shows the next one's first picture at once if an engine has it ready (our habit). If none has,
the end still shows the old picture, and the rows until the next episode is ready are not valid; other streams go on. An engine
that dies takes its episode with it: that row is not valid and truncated, nothing of the episode is counted as finished, and what
came before it is bootstrapped as at any cut.

The engine has no observation after the end of an episode: the last one seen, and its instruction, take the place of the final one.
Nor does it say why an episode ended: a time-out is an end when no more frames were left than a step takes. Its state cannot be saved.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from envs.base import Discrete, EnvSpec, Timestep, VectorEnv
from envs.dmlab.actions import action_meanings, action_table
from envs.dmlab.engine import RUNNING, TERMINATED, TRUNCATED
from envs.dmlab.instructions import MAX_WORDS
from envs.dmlab.process import EngineProcess
from envs.dmlab.supervisor import Supervisor


class DMLabEnv(VectorEnv):
    """Colour images uint8 ``[B, height, width, 3]``. Engines start with ``reset``.

    Args:
        name: for the spec.
        levels: names of a multi-task suite's levels; empty for a single one.
        image_shape: height and width.
        instruction: whether engines read one.
    """

    def __init__(
        self,
        name: str,
        supervisor: Supervisor,
        levels: Sequence[str],
        action_set: str,
        frame_skip: int,
        image_shape: tuple[int, int],
        instruction: bool,
    ) -> None:
        self.num_envs = len(supervisor.playing)
        self.spec = EnvSpec(
            name=name,
            observation_shape=(*image_shape, 3),
            observation_dtype="uint8",
            layout="HWC",
            actions=Discrete(len(action_table(action_set))),
            action_repeat=frame_skip,
            instruction_length=MAX_WORDS if instruction else 0,
            levels=tuple(levels),
            action_meanings=action_meanings(action_set),
        )
        self._supervisor = supervisor
        self._actions = action_table(action_set)
        self._shown = np.zeros((self.num_envs, *self.spec.observation_shape), np.uint8)
        self._words = np.zeros((self.num_envs, self.spec.instruction_length), np.int64)
        self._level = np.zeros(self.num_envs, np.int64)
        self._waiting = np.zeros(self.num_envs, bool)
        """Streams that had no engine when the present step began."""

    def reset(self) -> Timestep:
        self._supervisor.start()
        self._new_arrays()
        for stream in range(self.num_envs):
            self._begin_episode(stream)
        no = np.zeros(self.num_envs, bool)
        return self._timestep(np.zeros(self.num_envs, np.float32), no, no, ~no, no, self._level.copy())

    def step(self, actions: np.ndarray) -> Timestep:
        self.begin(actions)
        return self.finish()

    def begin(self, actions: np.ndarray) -> None:
        self._waiting = np.array([engine is None for engine in self._supervisor.playing])
        self._supervisor.begin_step(self._actions[actions])

    def finish(self) -> Timestep:
        supervisor, waiting = self._supervisor, self._waiting
        reward = np.zeros(self.num_envs, np.float32)
        status = np.full(self.num_envs, RUNNING)
        before, level = self._new_arrays(), self._level.copy()
        still = np.ones(self.num_envs, bool)
        for stream, engine in supervisor.answers():
            reward[stream], status[stream] = engine.reward, engine.status
            if engine.status == RUNNING:
                self._show(stream, engine)
                still[stream] = False
        for stream in supervisor.lost:  # perhaps after it had answered
            status[stream], still[stream] = RUNNING, True
        if still.any():
            self._shown[still], self._words[still] = before[0][still], before[1][still]
        for stream in np.flatnonzero(status != RUNNING):
            supervisor.finish(int(stream))
        is_first = waiting.copy()
        for stream in supervisor.fill():
            self._begin_episode(stream)
            is_first[stream] = True
        lost = np.zeros(self.num_envs, bool)
        lost[list(supervisor.lost)] = True
        reward[lost] = 0.0
        is_first |= lost
        truncated = (status == TRUNCATED) | lost
        return self._timestep(
            reward,
            status == TERMINATED,
            truncated,
            is_first,
            ~(waiting | lost),
            level,
            before if (truncated & is_first).any() else None,
        )

    def _new_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """For what is shown next, to be filled: those given away are never written to again. Returns what was shown until now."""
        before = self._shown, self._words
        self._shown, self._words = np.empty_like(self._shown), np.empty_like(self._words)
        return before

    def _begin_episode(self, stream: int) -> None:
        engine = self._supervisor.playing[stream]
        assert engine is not None
        self._show(stream, engine)
        self._level[stream] = engine.level

    def _show(self, stream: int, engine: EngineProcess) -> None:
        self._shown[stream] = engine.frame
        if self.spec.instruction_length:
            self._words[stream] = engine.words

    def _timestep(
        self,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        is_first: np.ndarray,
        valid: np.ndarray,
        level: np.ndarray,
        final: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Timestep:
        """``final``: pictures and words that were shown before."""
        instructed = self.spec.instruction_length > 0
        return Timestep(
            self._shown,
            reward,
            terminated,
            truncated,
            is_first,
            valid,
            final_observation=None if final is None else final[0],
            instruction=self._words if instructed else None,
            level=level if self.spec.levels else None,
            final_instruction=None if final is None or not instructed else final[1],
        )

    def statistics(self) -> Mapping[str, float]:
        cache = self._supervisor.cache_counts()
        return {
            "engine_restarts": float(self._supervisor.restarts),
            "env_deadlines_missed": float(self._supervisor.deadlines_missed),
            **{f"cache_{name}": float(count) for name, count in cache._asdict().items()},
        }

    def notices(self) -> Sequence[str]:
        return self._supervisor.notices()

    def render(self, index: int) -> np.ndarray:
        return self._shown[index].repeat(4, axis=0).repeat(4, axis=1)

    def close(self) -> None:
        self._supervisor.close()
