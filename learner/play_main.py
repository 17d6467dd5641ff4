"""``rtrl-play``: a video of a checkpoint, or of random play, with action, value, reward and the norm of the sensitivity."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

from actors.build import build_seeded_network
from actors.evaluation import Move, play
from conf.knobs import ConfigError, knob
from conf.load import describe, load_options, load_train
from conf.schema import TrainConfig
from envs.base import VectorEnv
from envs.registry import make_env
from learner import checkpoint as checkpoints
from learner.evaluate_main import load_network
from learner.protocol import protocol
from learner.user_mistakes import reported
from learner.video import captioned, contact_sheet, write_video
from rtrl_core import PolicyNetwork


@dataclass
class PlayConfig:
    checkpoint: str | None = knob(None, "run folder or checkpoint to play")
    env: str | None = knob(None, "SUITE/NAME to play without a checkpoint; needs policy=random")
    policy: str = knob("sampled", "how actions are chosen", choices=("greedy", "sampled", "random"))
    steps: int = knob(300, "steps to record", minimum=1)
    seed: int = knob(0, "environment seed", minimum=0)
    output: str = knob("play.gif", "video file, .gif or .mp4; the contact sheet is written beside it")
    frames_per_second: float = knob(15.0, "of the video", minimum=1)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(
            "usage: rtrl-play checkpoint=PATH | env=SUITE/NAME policy=random [option=value ...]\n\n"
            + describe(PlayConfig)
        )
        return 0
    return reported(lambda: run(load_options(PlayConfig, arguments)))


def run(config: PlayConfig) -> int:
    trained, network, env = prepare(config)
    output = Path(config.output)
    try:
        env_clip = trained.env.reward_clip
        moves = play(
            network,
            env,
            greedy=config.policy == "greedy",
            reward_clip=env_clip,
            seed=config.seed,
            with_sensitivity=True,
        )
        frames, total = [], 0.0
        for move in islice(moves, config.steps):
            if move.timestep.is_first[0]:
                total = 0.0
            total += float(move.next_timestep.reward[0])
            frames.append(captioned(env.render(0), caption(move, env, total)))
    except NotImplementedError as error:
        raise ConfigError(f"{error}: there is nothing to record") from None
    finally:
        env.close()
    write_video(frames, output, config.frames_per_second)
    sheet = output.with_suffix(".png")
    contact_sheet(frames).save(sheet)
    Console().print(f"{len(frames)} steps of {env.spec.name}: {output}, contact sheet {sheet}")
    return 0


def prepare(config: PlayConfig) -> tuple[TrainConfig, PolicyNetwork, VectorEnv]:
    """The configuration, the policy and one stream of the environment.

    Raises:
        ConfigError: if it is not said what to play.
    """
    if config.checkpoint is not None:
        checkpoint = checkpoints.load(checkpoints.find(Path(config.checkpoint), prefer="best"))
        trained = checkpoint.config
        env = make_env(next(iter(protocol(trained.env).splits.values())), 1, config.seed)
        return trained, _or_random(load_network(checkpoint, trained, env.spec, "cpu"), config.policy), env
    if config.env is None or config.policy != "random":
        raise ConfigError("nothing to play: give checkpoint=RUN, or env=SUITE/NAME with policy=random")
    trained = load_train([f"env={config.env}"])
    env = make_env(trained.env, 1, config.seed)
    trained.network.encoder = "none" if env.spec.layout == "vector" else "impala"
    return (
        trained,
        _or_random(build_seeded_network(trained.network, "segment", env.spec, config.seed), config.policy),
        env,
    )


def _or_random(network: PolicyNetwork, policy: str) -> PolicyNetwork:
    """With ``random``, all actions are equally likely, whatever the network has learned."""
    if policy == "random":
        with torch.no_grad():
            network.policy_head.weight.zero_()
            network.policy_head.bias.zero_()
    return network


def caption(move: Move, env: VectorEnv, total: float) -> list[str]:
    meanings = env.spec.action_meanings
    action = move.action[0]
    name = meanings[int(action)] if meanings else str(action.tolist())
    lines = [
        f"action {name}   value {float(move.output.values[0]):.2f}",
        f"reward {float(move.next_timestep.reward[0]):+.2f}   return {total:.2f}",
    ]
    if move.sensitivity is not None:
        lines.append(f"sensitivity {float(move.sensitivity.norm()):.1f}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
