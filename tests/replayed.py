"""Small runs of R2D2, for tests that look at what is replayed."""

from conf.load import load_train
from conf.schema import TrainConfig
from learner.sequence_replay import Drawn
from r2ac.training.parts import require_all_parts
from r2ac.training.sizing import sized

SMALL = [
    *(
        "experiment=tmaze",
        "algorithm=r2d2",
        "rule=tbptt",
        "network.forget_bias=1.0",
        "fleet=local",
        "fleet.num_actors=1",
        "logging=quiet",
        "learner.mode=sync",
    ),
    *("actors.num_envs=3", "actors.unroll=4", "network.num_units=5", "algorithm.options.n_step=3"),
    *("algorithm.options.burn_in=8", "algorithm.options.length=4", "algorithm.options.batch_sequences=6"),
    *("algorithm.options.min_sequences=4", "algorithm.options.replay_ratio=1.0", "network.head_sizes=[7]"),
    *("network.last_action=true", "algorithm.options.burn_in_gradient=false"),
]
POLE = ["env=gym/CartPole-v1", "env.max_episode_steps=9", "network.encoder=mlp", "network.features=4"]
"""Poles that fall and games that are cut off."""
BREAKOUT = [
    *("env=atari/breakout", "env.image_size=36", "env.noop_max=0", "env.frame_skip=8", "env.max_frames=120"),
    *("network.encoder=impala", "network.encoder_options.channels=[2]", "network.features=4"),
]
"""Stacks of which each image is kept once; lives that are soon lost, each with an opening, and games that are soon cut off."""
LAB = [
    *(
        "env=dmlab",
        "env.name=language_answer_quantitative_question",
        "env.width=8",
        "env.height=8",
        "env.actions=fifteen",
    ),
    *(
        "env.wait_for_reset=true",
        "env.instruction=true",
        "env.instruction=true",
        "network.encoder=impala",
        "network.encoder_options.channels=[2]",
        "network.features=4",
    ),
]
"""Instructions, of which each episode has its own."""


def configured(*words: str) -> TrainConfig:
    maze = [] if any(word.startswith("env=") for word in words) else ["env.corridor=3"]
    return sized(require_all_parts(load_train([*SMALL, *maze, *words])), cores=1)


def places(drawn: Drawn) -> list[tuple[int, int]]:
    return list(zip(drawn.numbers.tolist(), drawn.streams.tolist(), strict=True))
