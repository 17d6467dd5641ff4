"""The boundary contract of `envs/base.py`, for every suite and both auto-reset habits."""

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from counting_env import CountingEnv
from toy_actor import core_of

from actors.actor import Actor
from actors.worker import ActorIdentity
from conf.env_schema import (
    ENV_CONFIGS,
    AtariConfig,
    CopyTaskConfig,
    DelayedMatchConfig,
    GymConfig,
    MiniGridConfig,
    ProcgenConfig,
    TMazeConfig,
)
from conf.schema import ActorsConfig, LossConfig, NetworkConfig, RuleConfig
from envs.actions import Discrete, MultiDiscrete
from envs.base import Timestep, VectorEnv
from envs.registry import SUITES, make_env
from rtrl_core import WeightsSnapshot

STREAMS = 4
needs_procgen = pytest.mark.skipif(
    importlib.util.find_spec("procgen") is None, reason="procgen-mirror has no wheel for this Python"
)

MAKERS: dict[str, Callable[[int], VectorEnv]] = {
    "atari": lambda seed: make_env(AtariConfig(max_frames=240, noop_max=8), STREAMS, seed),
    "gym, terminating": lambda seed: make_env(GymConfig(name="CartPole-v1"), STREAMS, seed),
    "gym, truncating": lambda seed: make_env(GymConfig(name="Pendulum-v1", max_episode_steps=9), STREAMS, seed),
    "gym, in place": lambda seed: make_env(GymConfig(name="own_envs:InPlace-v0"), STREAMS, seed),
    "procgen": lambda seed: make_env(ProcgenConfig(name="bossfight", mode="easy", num_levels=0), STREAMS, seed),
    "tmaze": lambda seed: make_env(TMazeConfig(corridor=5), STREAMS, seed),
    "minigrid": lambda seed: make_env(MiniGridConfig(max_episode_steps=15), STREAMS, seed),
    "delayed_match": lambda seed: make_env(DelayedMatchConfig(delay=4), STREAMS, seed),
    "copy_task": lambda seed: make_env(CopyTaskConfig(length=3, delay=2), STREAMS, seed),
    "counting, same step": lambda seed: CountingEnv(STREAMS, seed, habit="same_step"),
    "counting, next step": lambda seed: CountingEnv(STREAMS, seed, habit="next_step"),
}
NEED_AN_ENGINE = ("dmlab", "dmlab30")
"""Their contract is in test_dmlab_contract.py."""
for new in SUITES:  # one that is added is held to the same, with its defaults
    if new not in NEED_AN_ENGINE and not any(name.partition(",")[0] == new for name in MAKERS):
        MAKERS[new] = lambda seed, new=new: make_env(ENV_CONFIGS[new](), STREAMS, seed)
CUT_OFF = ("atari", "gym, truncating", "gym, in place", "minigrid", "counting, same step")
"""Their episodes here end by a time limit, with a final observation."""
suites = pytest.mark.parametrize(
    "suite", [pytest.param(name, marks=needs_procgen) if name == "procgen" else name for name in MAKERS]
)


def play(env: VectorEnv, steps: int, seed: int = 0) -> Iterator[Timestep]:
    choose = np.random.default_rng(seed)
    for _ in range(steps):
        actions = env.spec.actions
        if isinstance(actions, Discrete):
            yield env.step(choose.integers(0, actions.num_actions, STREAMS))
        elif isinstance(actions, MultiDiscrete):
            yield env.step(choose.integers(0, actions.sizes, (STREAMS, len(actions.sizes))))
        else:
            yield env.step(choose.normal(size=(STREAMS, actions.size)).astype(np.float32))


@pytest.mark.seconds
@suites
def test_episodes_begin_exactly_where_others_ended(suite: str):
    env = MAKERS[suite](1)
    first = env.reset()
    assert first.is_first.all()
    assert not first.valid.any()
    assert not first.reward.any()
    ends = 0
    over_before = np.zeros(STREAMS, bool)
    for timestep in play(env, 300):
        over = timestep.terminated | timestep.truncated
        assert not (timestep.terminated & timestep.truncated).any()
        assert (timestep.is_first[timestep.valid] == over[timestep.valid]).all() or suite == "counting, next step"
        assert (over_before == ~timestep.valid).all() or suite != "counting, next step"
        resets = ~timestep.valid
        assert timestep.is_first[resets].all()
        assert not timestep.reward[resets].any()
        assert not over[resets].any()
        lost = timestep.truncated & timestep.is_first
        assert timestep.final_observation is not None or not lost.any()
        over_before = over
        ends += int(over.sum())
    assert ends >= 2
    env.close()


@pytest.mark.seconds
@suites
def test_arrays_have_the_shapes_of_the_spec_and_are_never_written_to_again(suite: str):
    env = MAKERS[suite](1)
    spec = env.spec
    timesteps, kept, cut = [env.reset()], [], 0
    kept.append([None if array is None else array.copy() for array in timesteps[0]])
    for timestep in play(env, 100):
        timesteps.append(timestep)
        kept.append([None if array is None else array.copy() for array in timestep])
        cut += int(timestep.final_observation is not None)
    assert cut or suite not in CUT_OFF
    for timestep, copies in zip(timesteps, kept, strict=True):
        assert all(
            (ours is None and copy is None) or (ours == copy).all() for ours, copy in zip(timestep, copies, strict=True)
        )
        assert timestep.observation.shape == (STREAMS, *spec.observation_shape)
        assert timestep.observation.dtype == spec.observation_dtype
        assert timestep.reward.dtype == np.float32
        for flags in (timestep.terminated, timestep.truncated, timestep.is_first, timestep.valid):
            assert flags.dtype == bool
            assert flags.shape == (STREAMS,)
    assert "/" in spec.name
    env.close()


@pytest.mark.seconds
@suites
def test_the_same_seed_repeats_another_differs_and_streams_differ(suite: str):
    def history(seed: int) -> np.ndarray:
        env = MAKERS[suite](seed)
        timesteps = [env.reset(), *play(env, 60)]
        env.close()
        return np.stack([timestep.observation for timestep in timesteps])

    first = history(1)
    assert (first == history(1)).all()
    assert (first != history(2)).any()
    assert any((first[:, 0] != first[:, stream]).any() for stream in range(1, STREAMS))


@pytest.mark.seconds
@suites
def test_a_saved_state_goes_on_bit_for_bit(suite: str):
    env, copy = MAKERS[suite](1), MAKERS[suite](2)
    env.reset()
    list(play(env, 40))
    state = env.get_state()
    if state is None:
        pytest.skip("the library of this suite cannot save its state; docs/environments.md says so")
    copy.set_state(state)
    for ours, theirs in zip(play(env, 60, seed=3), play(copy, 60, seed=3), strict=True):
        for a, b in zip(ours[:6], theirs[:6], strict=True):
            assert (a == b).all()


@pytest.mark.seconds
@suites
def test_state_and_sensitivity_forget_exactly_at_first_steps(suite: str):
    """After an unroll whose last step began an episode, nothing of what came before is left: as if the episode had begun alone."""
    env = MAKERS[suite](1)
    encoder = "none" if env.spec.layout == "vector" else "impala"
    network = NetworkConfig(encoder=encoder, features=8, num_units=4, last_reward=False)
    actor = Actor(
        *(ActorIdentity(0, 0, 1), [env], network, RuleConfig(), LossConfig()),
        *(ActorsConfig(num_envs=STREAMS, unroll=1, autocast="float32"), "none"),
    )
    weights = WeightsSnapshot(0, actor.parameters.layout.fingerprint, actor.parameters.vector.clone())
    _, core = core_of(actor.network)
    checked = 0
    for _ in range(250):
        actor.unroll(weights)
        rows = actor.rollout.unroll
        started = rows.is_first[0]
        if started.any():
            with torch.no_grad():
                alone, fresh = core(rows.inputs, core.initial_state(STREAMS), rows.is_first)
            assert actor.rollout.core.sensitivity is not None
            assert fresh.sensitivity is not None
            for ours, expected in zip(actor.rollout.core.sensitivity, fresh.sensitivity, strict=True):
                torch.testing.assert_close(ours[started], expected[started])
            torch.testing.assert_close(actor.rollout.core.cell[started], alone[-1].detach()[started])
            checked += int(started.sum())
        if checked > STREAMS + 2:
            break
    assert checked > STREAMS
    actor.close()
