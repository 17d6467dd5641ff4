"""``rtrl-train``: trains until done or stopped, and goes on where it stopped."""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from conf.load import config_hash, describe, load_train, to_yaml
from conf.schema import TrainConfig
from learner.git_revision import git_revision
from learner.run_folder import RunFolder, RunFolderError
from learner.sinks import open_sinks
from learner.training import RunHooks, train
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


class Attempt(RunHooks):
    """One attempt at a run: stops on signals, writes checkpoints only while the run folder is its own, copies them to storage."""

    def __init__(self, folder: RunFolder, config: TrainConfig, announce: Callable[[str], None]) -> None:
        self._folder = folder
        self._config = config
        self._announce = announce
        self._signals = StopSignals()

    def should_stop(self) -> bool:
        return self._signals.requested

    def started(self) -> None:
        # Not before: a run that is refused must leave the configuration of the one that is there.
        (self._folder.path / "config.yaml").write_text(to_yaml(self._config))
        self._signals.listen()

    def before_checkpoint(self) -> None:
        self._folder.check()

    def after_checkpoint(self) -> None:
        try:
            self._folder.publish()
        except RunFolderError as error:  # the local checkpoint is whole: the next one tries again
            self._announce(str(error))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done or stopped cleanly; else see ``reported``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(describe(TrainConfig))
        return 0
    return reported(lambda: run(load_train(arguments)))


def run(config: TrainConfig) -> int:
    """Trains with a complete configuration; see ``main`` for the exit status."""
    texts = {"git_revision": git_revision(), "config_hash": config_hash(config)}
    with RunFolder.open(config.run_dir or f"runs/{config.name}") as folder:
        folder.path.mkdir(parents=True, exist_ok=True)
        with open_sinks(config, folder.path, texts) as sinks:
            train(config, folder.path, sinks, Attempt(folder, config, sinks.event))
    return 0


if __name__ == "__main__":
    sys.exit(main())
