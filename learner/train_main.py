"""``rtrl-train``: trains until done or stopped, and goes on where it stopped."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from conf.load import config_hash, describe, load_train, to_yaml
from conf.schema import TrainConfig
from learner.git_revision import git_revision
from learner.sinks import open_sinks
from learner.training import train
from learner.user_mistakes import reported


class StopSignals:
    """SIGINT and SIGTERM ask the loop to save and end; the second one ends at once."""

    def __init__(self) -> None:
        self.requested = False
        self._owner = os.getpid()
        self.listen()

    def listen(self) -> None:
        """Called again once everything runs: Ray takes SIGTERM for itself when it starts."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: object) -> None:
        del frame
        if os.getpid() != self._owner:
            return
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print(
            f"\n{signal.Signals(number).name}: finishing the unrolls under way and saving; once more ends at once",
            file=sys.stderr,
        )


def run_folder(config: TrainConfig) -> Path:
    return Path(config.run_dir) if config.run_dir else Path("runs") / config.name


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done or stopped cleanly; else see ``reported``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(describe(TrainConfig))
        return 0
    return reported(lambda: run(load_train(arguments)))


def run(config: TrainConfig) -> int:
    """Trains with a complete configuration; see ``main`` for the exit status."""
    stop = StopSignals()
    run_dir = run_folder(config)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(to_yaml(config))
    static = {"git_revision": git_revision(), "config_hash": config_hash(config)}
    with open_sinks(config, run_dir, static) as sinks:
        train(config, run_dir, sinks, lambda: stop.requested, on_started=stop.listen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
