"""A training run: everything is built from the configuration, then one loop takes receipts and looks after the run.

for progress in schedule:      contributions that were added
    tally -> log row -> sinks
    checkpoint when due
    stop when done or asked to
"""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from actors.fleet import FleetState
from conf.load import to_yaml
from conf.schema import TrainConfig
from learner.algorithms import find_algorithm
from learner.memory import total_memory
from learner.receipts import Counters, Receipt
from learner.schedules import SCHEDULES
from r2ac.monitoring.metrics import Row
from r2ac.monitoring.sinks import Sinks
from r2ac.monitoring.tally import Tally
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import Checkpoint
from r2ac.persistence.resume import finished_line, resume_point
from r2ac.training.build import (
    Machinery,
    Start,
    available_cores,
    describe_environment,
    initial_weights,
    open_machinery,
    standardise,
)
from r2ac.training.clock import Clock
from r2ac.training.encoder_watch import EncoderWatch
from r2ac.training.parts import require_a_cluster_to_follow
from r2ac.training.refusals import Refusals
from r2ac.training.sizing import choices, doubts, resized, sized, update_line
from rtrl_core import ParameterLayout

STOPPING_S = 15.0
"""How long a run that ends waits for the end of a round and for unrolls that are still running: whoever stopped it does not wait for
ever."""
RESIZE_S = 5.0
"""Between two changes of what an update is made of, while a fleet follows its cluster: actors of a node stand one after the other."""
ANSWER_S = 2.0
"""What is left of that time, at the least, for actors to hand over their states."""


class RunHooks:
    """What surrounds a run: whoever started it may stop it and watch over its folder. By default nobody does."""

    def should_stop(self) -> bool:
        return False

    def started(self, config: TrainConfig) -> None:
        """Fleet and learner stand, of the sizes that this configuration says: it leaves nothing open."""

    def resized(self, config: TrainConfig) -> None:
        """The fleet, which follows its cluster, is of the size that this configuration says."""

    def before_checkpoint(self) -> None:
        """May raise, to forbid the writing."""

    def after_checkpoint(self) -> None:
        pass


def train(config: TrainConfig, run_dir: Path, sinks: Sinks, hooks: RunHooks) -> Row:
    """Runs until ``total_steps`` agent steps, or until it should stop; leaves a checkpoint either way.

    Returns the last log row.

    Raises:
        CheckpointError: if the checkpoint to go on from cannot be used.
        FleetError: if the cluster cannot place the run, or too much of it died.
        NoProgress: if nothing that the actors send can be used.
        UnknownEnvironment, MissingDependency, ValueError: for a configuration that cannot work.
    """
    require_a_cluster_to_follow(config)
    algorithm = find_algorithm(config.algorithm)
    spec = describe_environment(config, sinks.event)
    layout, vector = initial_weights(config, spec)
    asked, cores = config, available_cores()
    config = sized(asked, cores, total_memory() if asked.fleet.address is None else None)
    saved = resume_point(config, run_dir, layout, sinks.event)
    for doubt in doubts(config) if algorithm.updates_in_batches else []:
        sinks.event(doubt)
    tally = Tally(spec.levels, config.total_steps, own_processes=config.fleet.kind == "ray")
    if saved is not None:
        tally.set_state(saved.progress["tally"], Counters(**saved.learner["counters"]))
        if saved.agent_steps >= config.total_steps:
            sinks.event(finished_line(saved, config, run_dir))
            return tally.row({f"{process}_restarts": count for process, count in saved.progress["restarts"].items()})
        sinks.event(f"going on at {saved.agent_steps:,} agent steps")
    in_batches, has_cuda = algorithm.updates_in_batches, torch.cuda.is_available()
    for choice in choices(asked, config, cores, updates_in_batches=in_batches, has_cuda=has_cuda):
        sinks.tell(choice)
    if saved is None:
        standardise(config, vector, spec, sinks.tell)
        start = Start(
            algorithm.plan(config, spec, layout).first_state(vector), FleetState(), {"actor": 0, "learner": 0}
        )
    else:
        start = Start(saved.learner, saved.fleet, saved.progress["restarts"])
    sinks.begin(tally.counters.agent_steps, tally.elapsed_before_s, {} if saved is None else saved.progress["sinks"])

    with ExitStack() as stack:
        machinery = open_machinery(asked, config, algorithm, spec, start, run_dir, layout, sinks.event, stack)
        start.learner.clear()  # the learner has it, and a replay may be most of the memory
        return TrainingRun(asked, layout, run_dir, start, machinery, tally, sinks, hooks).to_its_end()


class TrainingRun:
    """A run whose fleet and learner stand."""

    def __init__(
        self,
        asked: TrainConfig,
        layout: ParameterLayout,
        run_dir: Path,
        start: Start,
        machinery: Machinery,
        tally: Tally,
        sinks: Sinks,
        hooks: RunHooks,
    ) -> None:
        self._asked = asked
        self._layout, self._run_dir, self._start = layout, run_dir, start
        self._config, self._fleet, self._learner = machinery
        self._tally, self._sinks, self._hooks = tally, sinks, hooks
        self._encoder = EncoderWatch()
        self._refusals = Refusals(lambda: self._fleet.num_actors, self._fleet.replace, sinks.event)
        self._resized_at = 0.0
        options, steps = self._config.logging, self._steps
        self._saving = Clock(options.checkpoint_interval_s, options.checkpoint_interval_steps, steps)
        self._logging = Clock(options.interval_s, options.interval_steps, steps)

    @property
    def _steps(self) -> int:
        return self._tally.counters.agent_steps

    def to_its_end(self) -> Row:
        """Returns the last log row; a checkpoint of the same moment is written."""
        self._hooks.started(self._config)
        self._tally.start()
        if not checkpoints.available(self._run_dir):
            # A learner that dies before the first regular checkpoint needs one to start from.
            self._save(required=True, limit_s=STOPPING_S)
        patient_until = time.monotonic() + STOPPING_S
        schedule = SCHEDULES[self._config.learner.mode]
        own_first = find_algorithm(self._config.algorithm).knows_its_own
        for progress in schedule(self._fleet, self._learner, self._config.fleet.in_flight, own_first):
            self._absorb(progress.receipts)
            self._follow()
            ending = self._steps >= self._config.total_steps or self._hooks.should_stop()
            if not ending:
                patient_until = time.monotonic() + STOPPING_S
            elif progress.may_stop or time.monotonic() >= patient_until:
                break
            if self._logging.due(self._steps) and (progress.receipts or self._logging.is_late()) and not ending:
                self._log()
            if self._saving.due(self._steps) and progress.may_stop and not ending:
                self._save(required=False)
        self._absorb(self._learner.receipts(at_most_pending=0))
        row = self._log()  # before the checkpoint, so that a copy of the run has it too
        self._save(required=True, limit_s=max(ANSWER_S, patient_until - time.monotonic()))
        self._sinks.flush()
        return row

    def _follow(self) -> None:
        """Updates are of as many contributions as the fleet's present size asks for."""
        num_actors, now = self._fleet.num_actors, time.monotonic()
        if num_actors in (0, self._config.fleet.num_actors) or now - self._resized_at < RESIZE_S:
            return
        self._resized_at = now
        self._config = config = resized(self._asked, self._config, num_actors)
        assert config.learner.batch_segments is not None
        assert config.learner.max_lag is not None
        for part in (self._learner, self._fleet):
            part.resize(config.learner.batch_segments, config.learner.max_lag)
        self._sinks.event(f"{num_actors} actors: {update_line(self._asked, config)}")
        self._hooks.resized(config)

    def _absorb(self, receipts: list[Receipt]) -> None:
        self._tally.add(receipts)
        self._refusals.add(receipts)

    def _save(self, *, required: bool, limit_s: float | None = None) -> None:
        self._absorb(self._learner.receipts(at_most_pending=0))  # so that rows and checkpoint tell of the same moment
        checkpoint = Checkpoint(
            config_yaml=to_yaml(self._config),
            layout=self._layout,
            score=self._tally.mean_return,
            learner=self._learner.get_state(),
            fleet=self._fleet.get_state(limit_s).after(self._start.fleet),
            progress={
                "tally": self._tally.get_state(),
                "restarts": self._restarts(),
                "sinks": self._sinks.get_state(),
            },
        )
        try:
            self._hooks.before_checkpoint()
            checkpoints.save(self._run_dir, checkpoint, self._config.logging.keep_checkpoints)
        except OSError as error:  # the one before is whole
            if required:
                raise
            again = f"{error}; training goes on and tries again later"
            self._saving.fail(self._steps, partial(self._sinks.event, again))
            return
        self._hooks.after_checkpoint()
        self._saving.restart(self._steps)

    def _log(self) -> Row:
        restarts = {f"{process}_restarts": count for process, count in self._restarts().items()}
        gauges = {**restarts, "checkpoint_age_s": self._saving.age_s, **self._fleet.resource_usage()}
        row = self._tally.row(gauges, self._fleet.actor_ids)
        self._sinks.write(row)
        if (said := self._encoder.look(row)) is not None:
            self._sinks.event(said)
        self._logging.restart(self._steps)
        return row

    def _restarts(self) -> dict[str, int]:
        """Of all attempts at this run."""
        before = self._start.restarts
        return {
            "actor": before["actor"] + self._fleet.restarts,
            "learner": before["learner"] + self._learner.restarts,
        }
