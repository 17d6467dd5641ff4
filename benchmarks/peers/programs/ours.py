"""``rtrl-train`` as it is: PROGRAM FOLDER SEED OPTION ..."""

import sys

from r2ac.commands.train import main

if __name__ == "__main__":
    folder, seed, *words = sys.argv[1:]
    sys.exit(main([f"run_dir={folder}", f"seed={seed}", "logging=quiet", "logging.interval_s=5", *words]))
