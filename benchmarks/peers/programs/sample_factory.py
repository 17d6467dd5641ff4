"""Sample Factory's APPO on Breakout, with its own program, its own defaults for Atari and whatever options follow: PROGRAM FOLDER OPTION ..."""

import sys
from pathlib import Path

import ale_py
import gymnasium
from games import recorded
from sample_factory.train import run_rl
from sf_examples.atari import atari_utils, train_atari

GAME = "RecordedBreakout-v0"


def main() -> int:
    folder, *options = sys.argv[1:]
    gymnasium.register(
        GAME, entry_point=lambda render_mode=None: recorded("BreakoutNoFrameskip-v4", folder, gymnasium, ale_py)
    )
    atari_utils.ATARI_ENVS.append(atari_utils.AtariSpec("atari_recorded", GAME))
    train_atari.register_atari_components()
    name = Path(folder).name
    words = ["--env=atari_recorded", f"--experiment={name}", f"--train_dir={folder}", "--device=cpu", *options]
    return run_rl(train_atari.parse_atari_args(words))


if __name__ == "__main__":
    sys.exit(main())
