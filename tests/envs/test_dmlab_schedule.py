"""Which level and which seed an episode gets."""

import numpy as np
import pytest

from envs.dmlab.schedule import NUM_SEEDS, EqualSchedule, FixedSchedule, LevelSeeds


@pytest.mark.parametrize("count", [1, 2, 7, 12, 1000])
def test_every_level_seed_comes_once_before_one_comes_twice(count: int):
    seeds = LevelSeeds(3, count, 100)
    rounds = [[seeds.draw() for _ in range(count)] for _ in range(2)]
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(100, 100 + count))


def test_all_seeds_of_the_engine_are_distinct_in_range_and_of_the_actors_own():
    first, again, other = (LevelSeeds(seed, None, 0) for seed in (1, 1, 2))
    drawn = [first.draw() for _ in range(10_000)]
    assert drawn == [again.draw() for _ in range(10_000)]
    assert len(set(drawn)) == len(drawn)
    assert min(drawn) >= 0
    assert max(drawn) < NUM_SEEDS
    assert len(set(drawn) & {other.draw() for _ in range(10_000)}) < 10


def test_actors_play_the_same_levels_in_another_order():
    orders = {tuple(LevelSeeds(seed, 50, 0).draw() for _ in range(1)) for seed in range(20)}
    assert len(orders) > 10


def test_a_fixed_schedule_gives_consecutive_streams_consecutive_levels():
    starts = set()
    for seed in range(20):
        schedule = FixedSchedule(30, LevelSeeds(seed, None, 0), seed)
        levels = [schedule.plan(stream).level for stream in range(60)]
        assert sorted(levels) == sorted([*range(30), *range(30)])
        assert schedule.plan(7).level == levels[7]
        assert schedule.accepts(7, levels[7])
        assert not schedule.accepts(7, levels[8])
        starts.add(levels[0])
    assert len(starts) > 5, "actors with few streams would all play the first levels"


@pytest.mark.parametrize("num_streams", [1, 2, 7])
def test_an_equal_schedule_levels_out_steps_although_episodes_have_other_lengths(num_streams: int):
    lengths = np.array([10, 40, 160, 25, 90])
    schedule = EqualSchedule(5, LevelSeeds(1, None, 0), 1)
    left = [0] * num_streams
    playing = [schedule.plan(stream).level for stream in range(num_streams)]
    steps = np.zeros(5)
    for stream in range(num_streams):
        left[stream] = lengths[playing[stream]]
    for _ in range(20_000 // num_streams):
        for stream in range(num_streams):
            steps[playing[stream]] += 1
            left[stream] -= 1
            if not left[stream]:
                schedule.record(playing[stream], int(lengths[playing[stream]]))
                playing[stream] = schedule.plan(stream).level
                left[stream] = lengths[playing[stream]]
    assert steps.min() > 0.9 * steps.max(), steps
