"""An engine that is lost in the middle of a game costs that game: no target, no return and no length of another one."""

import math

import numpy as np
import pytest
from counting_env import EPISODE, CountingEnv
from toy_actor import make_actor, present_weights

from actors.evaluation import evaluate
from envs.base import Timestep


class LosingEnv(CountingEnv):
    """Loses the engine of stream 0 at every fifth step, after it has answered, as ``envs.dmlab`` tells it: the step is no transition,
    its episode is cut off and shows its last observation as the final one."""

    def step(self, actions: np.ndarray) -> Timestep:
        before, episode = self._observe(), self._episode[0]
        now = super().step(actions)
        if self._steps_taken % 5:
            return now
        self.ledger = [entry for entry in self.ledger if entry[:2] != (0, episode)]
        if not now.is_first[0]:
            self._begin(0)
        final = before if now.final_observation is None else now.final_observation
        final[0] = before[0]
        for flags, value in ((now.truncated, True), (now.is_first, True), (now.terminated, False), (now.valid, False)):
            flags[0] = value
        now.reward[0] = math.nan
        return now._replace(observation=self._observe(), final_observation=final)

    def games(self) -> list[tuple[float, int]]:
        """Return and length of every game that was played to its end."""
        ends = [entry[:2] for entry in self.ledger if entry[3] or entry[4]]
        steps = {end: [entry[2] for entry in self.ledger if entry[:2] == end] for end in ends}
        return sorted((float(sum(EPISODE * end[1] + step for step in steps[end])), len(steps[end])) for end in ends)


@pytest.mark.seconds
def test_the_step_before_a_lost_engine_is_worth_its_reward_and_the_value_of_what_it_led_to():
    actor = make_actor(LosingEnv(num_envs=2, seed=3, lengths=(8, 12)), unroll=7, core="feedforward")
    weights, lost_after_a_step = present_weights(actor), 0
    for _ in range(10):
        contribution = actor.unroll(weights)
        rows, expected, target = actor.rollout.unroll, 0.0, 0.0
        for b in range(2):
            for t in reversed(range(7)):
                if not rows.valid[t, b]:
                    target = float(rows.values[t, b])
                    lost_after_a_step += t > 0 and not rows.is_first[t, b]
                    continue
                ends = t == 6 or bool(rows.truncated[t, b])
                following = float(rows.next_values[t, b]) if ends else target
                target = float(rows.rewards[t, b]) + 0.99 * following * (not rows.terminated[t, b])
                expected += target
        assert contribution.statistics.target_sum == pytest.approx(expected, rel=1e-5)
        assert contribution.gradient.isfinite().all()
        assert all(math.isfinite(episode.episode_return) for episode in contribution.statistics.episodes)
    assert lost_after_a_step > 3


@pytest.mark.seconds
def test_the_returns_and_lengths_of_an_actor_are_those_of_whole_games():
    env = LosingEnv(num_envs=2, seed=3, lengths=(1, 4))
    actor = make_actor(env, unroll=6)
    weights = present_weights(actor)
    reported = [episode for _ in range(20) for episode in actor.unroll(weights).statistics.episodes]
    assert sorted((episode.episode_return, episode.length) for episode in reported) == env.games()


def test_the_returns_and_lengths_of_an_evaluation_are_those_of_whole_games():
    network = make_actor(CountingEnv(2, seed=3)).network
    env = LosingEnv(num_envs=2, seed=3, lengths=(1, 4))
    score = evaluate(network, env, episodes=20, greedy=True, reward_clip="none", seed=0)
    assert len(score.returns) == 20
    assert set(zip(score.returns, score.lengths, strict=True)) <= set(env.games())
