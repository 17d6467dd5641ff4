"""What one attempt at a run writes beside its checkpoints."""

from pathlib import Path

import pytest

from conf.load import load_train, to_yaml
from r2ac.commands.stop_signals import StopSignals
from r2ac.commands.train import WatchedRun
from r2ac.monitoring.sinks import Sinks
from r2ac.persistence.run_folder import RunFolder
from r2ac.persistence.writing import CannotWrite


def test_sizes_that_find_no_room_end_no_run_and_are_written_with_the_next_checkpoint(tmp_path: Path) -> None:
    said: list[str] = []
    config, other = (load_train(["experiment=tmaze", f"fleet.num_actors={number}"]) for number in (1, 2))
    with RunFolder.open(str(tmp_path / "run")) as folder:
        run = WatchedRun(folder, config, Sinks([], said.append), StopSignals())
        run.started(config)
        written, blocked = folder.path / "sized.yaml", folder.path / ".sized.yaml.tmp"
        blocked.mkdir()  # as where there is no room: the file before it stays
        run.resized(other)
        run.before_checkpoint()
        assert written.read_text() == to_yaml(config)
        (line,) = said
        assert line.startswith(f"{written} could not be written (")
        assert line.endswith("; training goes on and tries again later")
        with pytest.raises(CannotWrite):
            run.started(config)  # what cannot be written then is told at once
        run.resized(other)
        blocked.rmdir()
        run.before_checkpoint()
        assert written.read_text() == to_yaml(other)
