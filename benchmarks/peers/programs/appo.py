"""Sample Factory's APPO on Breakout: PROGRAM FOLDER OPTION ...

Its own program, with its own defaults for Atari and whatever options follow.
"""

import sys

import ale_py
import gymnasium
from games import recorded
from sample_factory.train import run_rl
from sf_examples.atari import atari_utils, train_atari

GAME = "RecordedBreakout-v0"
FOLDER, *OPTIONS = sys.argv[1:]


def make(render_mode: str | None = None, **options) -> gymnasium.Env:
    return recorded("BreakoutNoFrameskip-v4", FOLDER, gymnasium, ale_py)


# Its workers import this file anew, so that this must be done in each.
gymnasium.register(GAME, entry_point=make)
atari_utils.ATARI_ENVS.append(atari_utils.AtariSpec("atari_recorded", GAME))
train_atari.register_atari_components()

if __name__ == "__main__":
    named = ["--experiment=breakout", f"--train_dir={FOLDER}"]
    sys.exit(run_rl(train_atari.parse_atari_args(["--env=atari_recorded", "--device=cpu", *named, *OPTIONS])))
