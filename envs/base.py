"""What every environment looks like to the rest of the system: a batch of streams stepped together, and its description.

One auto-reset habit inside the project (gymnasium calls it SAME_STEP): when an episode ends, the timestep that reports the end
already shows the first observation of the next episode, ``is_first`` is true there, and the true final observation of a
*truncated* episode comes beside it, because its value is bootstrapped from. Suites with another habit are converted at the edge:
one that spends a step on the reset (NEXT_STEP) marks that step ``valid = False``; it is not a transition and is left out
of loss, gradient and counters.

    t      observation          reward, terminated, truncated    is_first   valid
    ...    o_k                  of the step from o_{k-1}         False      True
    end    o'_0 (new episode)   of the step that ended it        True       True       final_observation = o_end if truncated
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from envs.actions import Continuous, Discrete, MultiDiscrete

Layout = Literal["CHW", "HWC", "vector"]


class EnvironmentFailure(RuntimeError):
    """An environment crashed or hung. Not a bug of ours: the fleet respawns the actor, counts it and goes on."""


class UnknownEnvironment(ValueError):
    """No such suite, game, level, mode or id. The message names what exists."""


class MissingDependency(RuntimeError):
    """A suite's library is not installed. The message says how to get it."""


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """All that the rest of the system knows about a suite."""

    name: str
    """As a user writes it: ``atari/breakout``."""
    observation_shape: tuple[int, ...]
    """Of one stream, without the batch axis."""
    observation_dtype: Literal["uint8", "float32"]
    layout: Layout
    """Meaning of the axes of ``observation_shape``; images are uint8, or float32 from 0 to 1, vectors float32."""
    actions: Discrete | MultiDiscrete | Continuous
    action_repeat: int = 1
    """Frames per step."""
    instruction_length: int = 0
    """Words of the optional instruction, as int64 word hashes ``[B, instruction_length]``, 0 = no word; 0 if there is none."""
    levels: tuple[str, ...] = ()
    """Level names of a multi-task suite; ``Timestep.level`` indexes them. Empty for a single task."""
    action_meanings: tuple[str, ...] = ()
    """For people and videos; may be empty."""


class Timestep(NamedTuple):
    """One step of all ``B`` streams. Arrays are owned by the receiver: an environment never writes to them again."""

    observation: np.ndarray
    """``[B, *observation_shape]``; the new episode's first one where an episode has just ended."""
    reward: np.ndarray
    """float32 ``[B]``, raw (never clipped), of the transition into this timestep; 0 at a reset."""
    terminated: np.ndarray
    """bool ``[B]``: the transition ended the episode and nothing is worth anything afterwards."""
    truncated: np.ndarray
    """bool ``[B]``: the episode was cut off (time limit); its return goes on in principle, so it is bootstrapped."""
    is_first: np.ndarray
    """bool ``[B]``: ``observation`` starts a new episode."""
    valid: np.ndarray
    """bool ``[B]``: false where the last action was ignored (reset steps of NEXT_STEP suites, and after ``reset()``)."""
    final_observation: np.ndarray | None = None
    """``[B, *observation_shape]`` whose rows are meaningful where ``truncated``; ``None`` if no row is. Suites whose library loses
    the terminal observation repeat the last one they saw and say so in their docstring."""
    instruction: np.ndarray | None = None
    """int64 ``[B, instruction_length]``, if the spec has one."""
    life_lost: np.ndarray | None = None
    """bool ``[B]``: ``terminated`` only for the learner (an Atari life); the game, its return and its length go on."""
    level: np.ndarray | None = None
    """int64 ``[B]``: index into ``spec.levels`` of the episode that the *transition* belonged to."""
    final_instruction: np.ndarray | None = None
    """int64 ``[B, instruction_length]``: the instruction that belongs to ``final_observation``, whose rows mean something in the same
    streams. ``instruction`` is already the next episode's there."""

    @property
    def game_over(self) -> np.ndarray:
        """bool ``[B]``: this row ended a game whose return and length count; a lost life does not."""
        over = (self.terminated | self.truncated) & self.valid
        return over if self.life_lost is None else over & ~self.life_lost

    @property
    def game_lost(self) -> np.ndarray:
        """bool ``[B]``: what played the game is gone, and so is its return: what comes next is another game's."""
        return self.truncated & ~self.valid


class VectorEnv(ABC):
    """``B`` streams of one suite. Not thread-safe. ``reset`` once, then ``step`` for ever: episodes restart by themselves."""

    spec: EnvSpec
    num_envs: int
    _begun: np.ndarray
    """Actions of a step that has been begun, in suites that take it all at once."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Raises ``TypeError`` for a class that overrides ``step`` and inherits halves that know nothing of it: actors call those."""
        super().__init_subclass__(**options)
        if "step" in vars(cls) and "finish" not in vars(cls) and cls.finish is not VectorEnv.finish:
            raise TypeError(
                f"{cls.__name__} overrides step, but inherits begin and finish, which actors call: override finish"
            )

    @abstractmethod
    def reset(self) -> Timestep:
        """Starts every stream; seeds were given at construction. Rewards 0, ``is_first`` all true, ``valid`` all false."""

    @abstractmethod
    def step(self, actions: np.ndarray) -> Timestep:
        """Takes one step in every stream. ``actions`` as the spec's ``actions`` say.

        Raises:
            EnvironmentFailure: if the environment died or missed its deadline.
        """

    def begin(self, actions: np.ndarray) -> None:
        """First half of a step, for whoever has something else to do meanwhile; ``finish`` is the next call.

        Suites whose games run in other threads or processes start them and return; the others take the whole step in ``finish``.

        Raises:
            EnvironmentFailure: as ``step``.
        """
        self._begun = actions

    def finish(self) -> Timestep:
        """Second half of the step that ``begin`` began: waits for it. Raises as ``step``."""
        return self.step(self._begun)

    def get_state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit (arrays, numbers, strings, nested dicts of them), or ``None`` if the suite cannot."""
        return None

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what ``get_state`` returned, in an environment built with the same arguments. Replaces ``reset``."""
        raise NotImplementedError(f"{self.spec.name} cannot restore its state")

    def statistics(self) -> Mapping[str, float]:
        """Counters since construction, by metric name (``engine_restarts``, ``cache_hits``, ...). Usually empty."""
        return {}

    def notices(self) -> Sequence[str]:
        """What a person should read once before a run on this machine, a line each: nothing that stops it. Usually empty."""
        return ()

    def render(self, index: int) -> np.ndarray:
        """An RGB picture uint8 ``[height, width, 3]`` of stream ``index`` as a person would see it.

        The default shows the observation. Vectors have no picture: they raise ``NotImplementedError``.
        """
        raise NotImplementedError(f"{self.spec.name} has no picture")

    def close(self) -> None:  # noqa: B027 - most suites hold nothing
        """Releases processes and files. Safe to call twice."""


def spawn_seeds(seed: int, count: int) -> list[int]:
    """``count`` distinct, well-mixed seeds in ``[0, 2**31 - 1)``: streams of one actor, or actors of one run, never share one."""
    children = np.random.SeedSequence(seed).spawn(count)
    return [int(child.generate_state(1, np.uint64)[0] % (2**31 - 1)) for child in children]
