"""``rtrl-play``: a video of a checkpoint, or of random play, with action, value, reward and the norm of the sensitivity."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image
from rich.console import Console

from actors.build import build_seeded_network
from actors.evaluation import Move, play
from actors.precision import prepare_process
from conf.describe import describe
from conf.dotted import is_dotted
from conf.env_schema import EnvConfig
from conf.knobs import MAX_SEED, ConfigError, knob
from conf.load import load_options, load_train
from conf.schema import RuleConfig, TrainConfig
from envs.base import EnvSpec, VectorEnv
from envs.registry import find_suite, make_env
from r2ac.commands.evaluate import REPEATED, load_network
from r2ac.commands.user_mistakes import printed, reported
from r2ac.commands.video import captioned, contact_sheet, evenly_spaced, require_writable, write_video
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import Checkpoint
from rtrl_core import PolicyNetwork

SHEET_FRAMES = 16
Played = tuple[Checkpoint, TrainConfig]
"""With the configuration that the caller trusts."""


@dataclass
class PlayConfig:
    checkpoint: str | None = knob(None, "run folder or checkpoint to play", place=True)
    which: str = knob(
        "last", "of a run folder: its last checkpoint, or the best by return in training", choices=("last", "best")
    )
    env: str | None = knob(
        None,
        "SUITE/NAME to play without a checkpoint; needs policy=random; env.OPTION=value too. With one: MODULE:SUITE, to trust it",
        place=True,
    )
    policy: str = knob("sampled", "how actions are chosen", choices=("greedy", "sampled", "random"))
    steps: int = knob(300, "steps to record", minimum=1, maximum=100_000_000)
    seed: int = knob(0, "environment seed", minimum=0, maximum=MAX_SEED)
    threads: int = knob(1, "torch threads", minimum=1, maximum=1024)
    output: str = knob("play.gif", "video file, .gif or .mp4; the contact sheet is written beside it", place=True)
    frames_per_second: float = knob(15.0, "of the video", minimum=1, maximum=1000)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        return printed(
            "usage: rtrl-play checkpoint=PATH | env=SUITE/NAME policy=random [option=value ...] [network.core=MODULE:CLASS]\n\n"
            + describe(PlayConfig)
        )
    return reported(lambda: run(arguments))


def run(arguments: Sequence[str]) -> int:
    repeated = [word for word in arguments if word.lstrip("+").startswith(tuple({*REPEATED} - {"env="}))]
    config = load_options(PlayConfig, [word for word in arguments if word not in repeated])
    output = Path(config.output)
    require_writable(output)
    prepare_process(config.threads)
    env_config, played = what_to_play(config, repeated)
    wanted = set(evenly_spaced(SHEET_FRAMES, config.steps))
    kept: list[Image.Image] = []

    def keep_for_the_sheet(frames: Iterator[Image.Image]) -> Iterator[Image.Image]:
        for number, frame in enumerate(frames):
            if number in wanted:
                kept.append(frame)
            yield frame

    with closing(make_env(env_config, 1, config.seed, pictures=True)) as env:
        frames = record(policy_for(config, played, env.spec), env, env_config.reward_clip, config)
        write_video(keep_for_the_sheet(frames), output, config.frames_per_second)
    sheet = output.with_suffix(".png")
    contact_sheet(kept).save(sheet)
    Console(markup=False).print(f"{config.steps} steps of {env.spec.name}: {output}, contact sheet {sheet}")
    return 0


def what_to_play(config: PlayConfig, repeated: Sequence[str]) -> tuple[EnvConfig, Played | None]:
    """The environment, and the checkpoint unless play is random without one. What of a checkpoint is to be trusted is in ``repeated``.

    Raises:
        ConfigError: if it is not said what to play, or said twice.
        CheckpointError: if the checkpoint cannot be used.
    """
    if config.checkpoint is None:
        if config.env is None or config.policy != "random":
            raise ConfigError("nothing to play: give checkpoint=RUN, or env=SUITE/NAME with policy=random")
        return load_train([f"env={config.env}", *repeated]).env, None
    if config.env is not None and not is_dotted(config.env.partition("/")[0]):
        raise ConfigError("a checkpoint is played in its own environment: leave env out, or leave checkpoint out")
    checkpoint = checkpoints.load(checkpoints.find(Path(config.checkpoint), which=config.which))
    trained = checkpoint.trusted_config([*([] if config.env is None else [f"env={config.env}"]), *repeated])
    splits = find_suite(trained.env.suite).protocol(trained.env).splits
    return next(iter(splits.values())), (checkpoint, trained)


def policy_for(config: PlayConfig, played: Played | None, spec: EnvSpec) -> PolicyNetwork:
    """The checkpoint's policy, or a fresh one; with ``random``, its actions do not depend on what it sees."""
    if played is not None:
        network = load_network(*played, spec, "cpu")
    else:
        options = load_train([]).network
        options.encoder = "none" if spec.layout == "vector" else "impala"
        network = build_seeded_network(options, RuleConfig(), spec, config.seed)
    if config.policy == "random":
        network.act_evenly()
    return network


def record(network: PolicyNetwork, env: VectorEnv, reward_clip: str, config: PlayConfig) -> Iterator[Image.Image]:
    """``config.steps`` pictures of what the policy saw, each with what it then did and what came of it.

    Raises:
        ConfigError: if the environment has no picture.
    """
    greedy = config.policy == "greedy"
    moves = play(network, env, greedy=greedy, reward_clip=reward_clip, seed=config.seed, with_sensitivity=True)
    picture, total = None, 0.0
    for move in islice(moves, config.steps + 1):
        total += float(move.next_timestep.reward[0])
        if picture is not None:  # the very first one is gone before anybody could ask for it
            yield captioned(picture, caption(move, env.spec, total))
        if (move.next_timestep.game_over | move.next_timestep.game_lost)[0]:
            total = 0.0
        try:
            picture = env.render(0)
        except NotImplementedError as error:
            raise ConfigError(f"{error}: there is nothing to record") from None


def caption(move: Move, spec: EnvSpec, total: float) -> list[str]:
    name = spec.actions.caption(move.action[0].cpu().numpy(), spec.action_meanings)
    if not move.next_timestep.valid[0]:
        name += " (ignored)"
    lines = [
        f"action {name}   value {float(move.output.values[0]):.2f}",
        f"reward {float(move.next_timestep.reward[0]):+.2f}   return {total:.2f}",
    ]
    if move.sensitivity_norm is not None:
        lines.append(f"sensitivity {move.sensitivity_norm:.1f}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
