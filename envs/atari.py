"""Atari 2600: every ALE game, through ale-py's own C++ vector environment, preprocessed as in the paper.

The library restarts the whole game at a lost life when told ``episodic_life=True``. "A life is the learner's episode" means that the
game goes on, so lost lives are seen here, by the counter of lives: returns and lengths stay those of whole games. The state of a batch
cannot be saved: after a resume, games start anew.
"""

import difflib

import numpy as np

from conf.env_schema import AtariConfig, EnvConfig
from envs.atari_opening import Openings, presses
from envs.base import Discrete, EnvSpec, MissingDependency, Timestep, UnknownEnvironment, VectorEnv, spawn_seeds
from envs.human_scores import ATARI, human_normalised
from envs.suite import EvaluationProtocol, Suite

FOR_TWO = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""ROMs in the wheel that only several players can play: starting one alone ends the process."""


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    """Raises ``UnknownEnvironment`` for a game that ALE does not have, ``MissingDependency`` without ale-py."""
    assert isinstance(config, AtariConfig)
    return AtariEnv(config, num_envs, seed)


class AtariEnv(VectorEnv):
    """Grey images uint8 ``[B, stack, size, size]``, from emulators that run in threads of their own."""

    def __init__(self, config: AtariConfig, num_envs: int, seed: int) -> None:
        try:
            from ale_py.vector_env import AtariVectorEnv
        except ImportError as error:
            raise MissingDependency(
                f"env=atari needs ale-py, which cannot be imported ({error}): pip install ale-py"
            ) from None
        game = game_id(config.name)
        self._envs = AtariVectorEnv(
            game,
            num_envs,
            num_threads=config.threads,
            max_num_frames_per_episode=config.max_frames,
            repeat_action_probability=config.sticky_actions,
            full_action_space=config.full_action_space,
            autoreset_mode="SameStep",
            img_height=config.image_size,
            img_width=config.image_size,
            grayscale=True,
            stack_num=config.frame_stack,
            frameskip=config.frame_skip,
            maxpool=True,
            noop_max=config.noop_max,
            reward_clipping=False,
            use_fire_reset=config.fire_reset and config.opening == "ale",
        )
        self.num_envs = num_envs
        self.spec = EnvSpec(
            name=f"atari/{game}",
            observation_shape=(config.frame_stack, config.image_size, config.image_size),
            observation_dtype="uint8",
            layout="CHW",
            actions=Discrete(int(self._envs.single_action_space.n)),  # pyright: ignore[reportAttributeAccessIssue]
            action_repeat=config.frame_skip,
            action_meanings=tuple(action.name.lower() for action in self._envs.ale.get_action_set()),
        )
        self._seeds = np.array(spawn_seeds(seed, num_envs))
        self._episodic_life = config.episodic_life
        self._openings = Openings(
            num_envs, presses(self.spec.action_meanings, config.fire_reset) if config.opening == "paper" else ()
        )
        self._lives = np.zeros(num_envs, np.int32)
        # Whether the opening that is under way begins an episode; without episodic lives it may lie in the middle of one.
        self._begins = np.ones(num_envs, bool)
        self._unpaid = np.zeros(num_envs, np.float32)
        self._last_frame = np.zeros(0, np.uint8)
        self._pressed = np.zeros(num_envs, bool)
        """Streams whose present step is a press of their opening."""

    def reset(self) -> Timestep:
        observation, info = self._envs.reset(seed=self._seeds)
        self._lives = info["lives"]
        no = np.zeros(self.num_envs, bool)
        observation = self._last_frame = self._openings.restack(observation, ~no)
        return Timestep(observation, np.zeros(self.num_envs, np.float32), no, no, ~no, no, life_lost=no)

    def step(self, actions: np.ndarray) -> Timestep:
        self.begin(actions)
        return self.finish()

    def begin(self, actions: np.ndarray) -> None:
        self._pressed = self._openings.under_way
        self._envs.send(self._openings.press(actions))

    def finish(self) -> Timestep:
        pressed = self._pressed
        observation, reward, terminated, truncated, info = self._envs.recv()
        truncated = truncated & ~terminated
        over = terminated | truncated
        # After a game the counter shows the next game's lives. A game that goes on for some frames without any begins no new life.
        lost = ~over & (info["lives"] < self._lives) & (info["lives"] > 0)
        self._lives = info["lives"]
        self._openings.begin(games=over, lives=lost)

        valid = ~pressed | over  # a game that ends while it is opened counts all the same, or its score would be lost
        life_lost = lost & valid & self._episodic_life
        self._begins = np.where(over | lost, over | self._episodic_life, self._begins)
        is_first = over | life_lost | (pressed & self._begins)
        final = self._openings.restack_last(info["final_obs"]) if truncated.any() else None
        observation = self._last_frame = self._openings.restack(observation, is_first)
        return Timestep(
            observation,
            self._paid(reward, valid),
            terminated | life_lost,
            truncated,
            is_first,
            valid,
            final_observation=final,
            life_lost=life_lost,
        )

    def _paid(self, reward: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """What is earned while an episode is opened comes with its first transition, so that returns are those of whole games."""
        earned = self._unpaid + reward.astype(np.float32)
        self._unpaid = np.where(valid, np.float32(0), earned)
        return np.where(valid, earned, np.float32(0))

    def render(self, index: int) -> np.ndarray:
        """The newest frame of the stack, grey, twice its size."""
        grey = self._last_frame[index, -1].repeat(2, axis=0).repeat(2, axis=1)
        return np.repeat(grey[:, :, None], 3, axis=2)

    def close(self) -> None:
        self._envs.close()


def game_id(name: str) -> str:
    """ALE's name of a game: ``ms_pacman`` for ``ms_pacman``, ``MsPacman`` or ``Ms-Pacman``."""
    known = games()
    wanted = _letters(name)
    for candidate in known:
        if _letters(candidate) == wanted:
            return candidate
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(close)}?" if close else f"ALE has {len(known)}, for instance {', '.join(known[:5])}"
    )
    raise UnknownEnvironment(f"unknown Atari game {name!r}: {hint}")


def games() -> list[str]:
    """Every game that one player can play."""
    from ale_py import roms

    return sorted(set(roms.get_all_rom_ids()) - FOR_TWO)


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def protocol(config: AtariConfig) -> EvaluationProtocol:
    """Whole games, not lives as in the official code, but played as they were in training: the state
    begins anew with each life if it did so there."""
    return EvaluationProtocol({"games": config})


def human_score(spec: EnvSpec, split: str, mean_return: float) -> float | None:
    """For the games whose random and human returns are published."""
    game = spec.name.partition("/")[2]
    return human_normalised(mean_return, ATARI[game]) if game in ATARI else None


SUITE = Suite(AtariConfig, make, protocol=protocol, split_score=human_score)
