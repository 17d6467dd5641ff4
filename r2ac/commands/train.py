"""``rtrl-train``: trains until done or stopped, and goes on where it stopped."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from conf.describe import describe
from conf.folder import take_folder
from conf.load import config_hash, load_train, to_yaml
from conf.one_line import visible
from conf.places import redacted
from conf.schema import TrainConfig
from conf.words import take_flag
from r2ac.commands.cfg_flag import take_cfg
from r2ac.commands.completion import completion
from r2ac.commands.git_revision import git_revision
from r2ac.commands.stop_signals import StopSignals
from r2ac.commands.user_mistakes import printed, reported
from r2ac.monitoring.sinks import Sinks, open_sinks
from r2ac.persistence.resume import finished
from r2ac.persistence.run_folder import RunFolder, RunFolderError
from r2ac.persistence.writing import CannotWrite, replace_file
from r2ac.training.loop import RunHooks, train
from r2ac.training.parts import part_names, part_options, require_all_parts


class WatchedRun(RunHooks):
    """One attempt at a run: stops on signals, writes checkpoints only while the run folder is its own, copies them to storage."""

    def __init__(self, folder: RunFolder, config: TrainConfig, sinks: Sinks, signals: StopSignals) -> None:
        self._folder = folder
        self._config = config
        self._sinks = sinks
        self._signals = signals
        self.has_started = False
        self._unwritten: TrainConfig | None = None
        """Sizes that the run has and ``sized.yaml`` does not say yet."""

    def should_stop(self) -> bool:
        return self._signals.requested

    def started(self, config: TrainConfig) -> None:
        self.has_started = True
        # Not before: a run that is refused must leave the configuration of the one that is there.
        replace_file(self._folder.path / "config.yaml", to_yaml(self._config))
        self._write_sizes(config)
        self._signals.begin()

    def resized(self, config: TrainConfig) -> None:
        try:
            self._write_sizes(config)
        except CannotWrite as failure:
            self._sinks.event(f"{failure}; training goes on and tries again later")

    def _write_sizes(self, config: TrainConfig) -> None:
        self._unwritten = config
        replace_file(self._folder.path / "sized.yaml", to_yaml(config))
        self._unwritten = None

    def before_checkpoint(self) -> None:
        self._folder.check()
        if self._unwritten is not None:
            with suppress(CannotWrite):  # has been said; the checkpoint says it again
                self._write_sizes(self._unwritten)

    def after_checkpoint(self) -> None:
        self._sinks.flush()
        try:
            self._folder.publish()
        except RunFolderError as error:  # the local checkpoint is whole: the next one tries again
            self._sinks.event(str(error))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done or stopped cleanly; else see ``reported``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        return printed(lambda: _help(arguments))
    used: list[Sinks] = []
    status = reported(lambda: _run_or_show(arguments, used.append))
    if not all(
        sinks.work for sinks in used
    ):  # what the library of a broken one does at the exit may be pages, or never end
        os._exit(status)
    return status


def _help(arguments: Sequence[str]) -> str:
    text = describe(TrainConfig, arguments, part_names())
    return "\n".join([text, "", "options of parts:", *part_options()])


def _run_or_show(arguments: Sequence[str], opened: Callable[[Sinks], None]) -> int:
    shell, words = take_flag(arguments, "--completion")
    if shell is not None:
        print(completion(shell, take_folder(words)[0]), end="")
        return 0
    only_shown, words = take_cfg(words)
    config = require_all_parts(load_train(words))
    if only_shown:
        print(to_yaml(config), end="")
        return 0
    return run(config, opened)


def run(config: TrainConfig, opened: Callable[[Sinks], None] = lambda sinks: None) -> int:
    """Trains with a complete configuration; see ``main`` for the exit status. ``opened`` is told of the sinks."""
    signals = StopSignals()
    location = config.run_dir or f"runs/{config.name}"
    # Before the folder is taken, which writes into it.
    if "://" not in location and (line := finished(config, Path(location))) is not None:
        print(line)
        return 0
    try:
        with RunFolder.open(location) as folder:
            folder.path.mkdir(parents=True, exist_ok=True)
            texts = {"git_revision": git_revision(), "config_hash": config_hash(config)}
            with open_sinks(config, folder.path, texts) as sinks:
                opened(sinks)
                train(config, folder.path, sinks, attempt := WatchedRun(folder, config, sinks, signals))
            if attempt.has_started:
                folder.publish()  # what was written while the sinks closed
                if config.logging.terminal != "none":
                    print(visible(redacted(what_comes_next(location))), flush=True)
    except BaseException:
        if not signals.ended_the_start:
            raise
    return 0


def what_comes_next(location: str) -> str:
    """Where the run is, and what one does with it as a rule."""
    place = shlex.quote(location)
    lines = [f"the run is in {place}: the same command goes on, with a larger total_steps where it is finished"]
    if "://" not in location:
        lines.append(f"next: rtrl-evaluate checkpoint={place}; rtrl-play checkpoint={place}; rtrl-report {place}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
