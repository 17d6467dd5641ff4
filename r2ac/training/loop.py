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

from actors.fleet import FleetState
from conf.load import to_yaml
from conf.schema import TrainConfig
from learner.algorithms import find_algorithm
from learner.receipts import Counters, Receipt
from learner.schedules import SCHEDULES
from r2ac.monitoring.metrics import Row
from r2ac.monitoring.sinks import Sinks
from r2ac.monitoring.tally import Tally
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import Checkpoint
from r2ac.persistence.resume import finished_line, resume_point
from r2ac.training.build import available_cores, describe_environment, initial_weights, open_machinery
from r2ac.training.clock import Clock
from r2ac.training.refusals import Refusals
from r2ac.training.sizing import doubts, sized

STOPPING_S = 15.0
"""How long a run that ends waits for the end of a round and for unrolls that are still running: whoever stopped it does not wait for
ever."""
ANSWER_S = 2.0
"""What is left of that time, at the least, for actors to hand over their states."""


class RunHooks:
    """What surrounds a run: whoever started it may stop it and watch over its folder. By default nobody does."""

    def should_stop(self) -> bool:
        return False

    def started(self) -> None:
        """Fleet and learner stand."""

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
    algorithm = find_algorithm(config.algorithm)
    spec = describe_environment(config, sinks.event)
    layout, vector = initial_weights(config, spec)
    config = sized(config, available_cores())
    saved = resume_point(config, run_dir, layout, sinks.event)
    for doubt in doubts(config):
        sinks.event(doubt)
    tally = Tally(spec.levels, config.total_steps, own_processes=config.fleet.kind == "ray")
    state, fleet_state, before = (
        algorithm.plan(config, layout).first_state(vector),
        FleetState(),
        {"actor": 0, "learner": 0},
    )
    if saved is not None:
        state, fleet_state, before = saved.learner, saved.fleet, saved.progress["restarts"]
        tally.set_state(saved.progress["tally"], Counters(**saved.learner["counters"]))
        if saved.agent_steps >= config.total_steps:
            sinks.event(finished_line(saved, config, run_dir))
            return tally.row({f"{process}_restarts": count for process, count in before.items()})
        sinks.event(f"going on at {saved.agent_steps:,} agent steps")
    sinks.begin(tally.counters.agent_steps, tally.elapsed_before_s, {} if saved is None else saved.progress["sinks"])

    with ExitStack() as stack:
        fleet, learner = open_machinery(config, algorithm, state, fleet_state, run_dir, layout, sinks.event, stack)

        def restarts() -> dict[str, int]:
            return {
                "actor": before["actor"] + fleet.restarts,
                "learner": before["learner"] + learner.restarts,
            }

        refusals = Refusals(fleet.num_actors, fleet.replace, sinks.event)

        def absorb(receipts: list[Receipt]) -> None:
            tally.add(receipts)
            refusals.add(receipts)

        def save(*, required: bool, limit_s: float | None = None) -> None:
            absorb(learner.receipts(at_most_pending=0))  # so that rows and checkpoint tell of the same moment
            checkpoint = Checkpoint(
                config_yaml=to_yaml(config),
                layout=layout,
                score=tally.mean_return,
                learner=learner.get_state(),
                fleet=fleet.get_state(limit_s).after(fleet_state),
                progress={"tally": tally.get_state(), "restarts": restarts(), "sinks": sinks.get_state()},
            )
            try:
                hooks.before_checkpoint()
                checkpoints.save(run_dir, checkpoint, config.logging.keep_checkpoints)
            except OSError as error:  # the one before is whole
                if required:
                    raise
                saving.fail(steps, partial(sinks.event, f"{error}; training goes on and tries again later"))
                return
            hooks.after_checkpoint()
            saving.restart(tally.counters.agent_steps)

        def log() -> Row:
            row = tally.row(
                {
                    "actor_restarts": restarts()["actor"],
                    "learner_restarts": restarts()["learner"],
                    "checkpoint_age_s": saving.age_s,
                    **fleet.resource_usage(),
                }
            )
            sinks.write(row)
            logging.restart(tally.counters.agent_steps)
            return row

        steps = tally.counters.agent_steps
        options = config.logging
        saving = Clock(options.checkpoint_interval_s, options.checkpoint_interval_steps, steps)
        logging = Clock(options.interval_s, options.interval_steps, steps)
        hooks.started()
        tally.start()
        if not checkpoints.available(run_dir):
            # A learner that dies before the first regular checkpoint needs one to start from.
            save(required=True, limit_s=STOPPING_S)
        patient_until = time.monotonic() + STOPPING_S
        for progress in SCHEDULES[config.learner.mode](fleet, learner, config.fleet.in_flight):
            absorb(progress.receipts)
            steps = tally.counters.agent_steps
            ending = steps >= config.total_steps or hooks.should_stop()
            if not ending:
                patient_until = time.monotonic() + STOPPING_S
            elif progress.may_stop or time.monotonic() >= patient_until:
                break
            if logging.due(steps) and (progress.receipts or logging.is_late()) and not ending:
                log()
            if saving.due(steps) and progress.may_stop and not ending:
                save(required=False)
        absorb(learner.receipts(at_most_pending=0))
        row = log()  # before the checkpoint, so that a copy of the run has it too
        save(required=True, limit_s=max(ANSWER_S, patient_until - time.monotonic()))
        sinks.flush()
        return row
