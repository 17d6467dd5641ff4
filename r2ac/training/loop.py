"""A training run: everything is built from the configuration, then one loop takes receipts and looks after the run.

for progress in schedule:      contributions that were added
    tally -> log row -> sinks
    checkpoint when due
    stop when done or asked to
"""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from actors.build import build_seeded_network
from actors.fleet import Fleet, FleetState, LocalFleet
from conf.load import to_yaml
from conf.schema import TrainConfig
from envs.base import EnvSpec
from envs.registry import make_env
from learner.clients import LearnerClient, LocalLearner
from learner.learner import Counters, LearnerPlan, Receipt
from learner.schedules import SCHEDULES
from r2ac.monitoring.sinks import Sinks
from r2ac.monitoring.tally import Row, Tally
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import Checkpoint, CheckpointError
from r2ac.persistence.resume import finished_line, load_matching, resume_point
from r2ac.training.refusals import Refusals
from r2ac.training.sizing import doubts, sized
from rtrl_core import FlatParameters, ParameterLayout
from rtrl_core.shapes import Float, Tensor

STOPPING_S = 15.0
"""How long a run that ends waits for the end of a round and for unrolls that are still running: whoever stopped it does not wait for
ever."""
ANSWER_S = 2.0
"""What is left of that time, at the least, for actors to hand over their states."""


class Clock:
    """Says when something is due: every so many seconds, or every so many agent steps."""

    def __init__(self, interval_s: float, interval_steps: int | None, agent_steps: int) -> None:
        self._interval_s, self._interval_steps = interval_s, interval_steps
        self.restart(agent_steps)

    def restart(self, agent_steps: int) -> None:
        self._done_s = time.monotonic()
        self._failed = False
        self._postpone(agent_steps)

    def fail(self, agent_steps: int, say: Callable[[], None]) -> None:
        """It was due and could not be done: it is due again after another interval. ``say`` is called for the first of several failures."""
        if not self._failed:
            say()
        self._failed = True
        self._postpone(agent_steps)

    def _postpone(self, agent_steps: int) -> None:
        self._last_s, self._last_steps = time.monotonic(), agent_steps

    @property
    def age_s(self) -> float:
        """Since it was last done."""
        return time.monotonic() - self._done_s

    def due(self, agent_steps: int) -> bool:
        if self._interval_steps is not None:
            return agent_steps - self._last_steps >= self._interval_steps
        return time.monotonic() - self._last_s >= self._interval_s

    def is_late(self) -> bool:
        """Whether it has been due for two more intervals. A row waits so long for a contribution: between two of them, a run that takes
        long unrolls would seem to stand still, and to be twice as fast as it is after that."""
        return time.monotonic() - self._last_s >= 3 * self._interval_s


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
    spec = describe_environment(config, sinks.event)
    layout, vector = initial_weights(config, spec)
    config = sized(config, available_cores())
    saved = resume_point(config, run_dir, layout, sinks.event)
    for doubt in doubts(config):
        sinks.event(doubt)
    plan = learner_plan(config, layout)
    tally = Tally(spec.levels, config.total_steps, own_processes=config.fleet.kind == "ray")
    state, fleet_state, before = plan.first_state(vector), FleetState(), {"actor": 0, "learner": 0}
    if saved is not None:
        state, fleet_state, before = saved.learner, saved.fleet, saved.progress["restarts"]
        tally.set_state(saved.progress["tally"], Counters(**saved.learner["counters"]))
        if saved.agent_steps >= config.total_steps:
            sinks.event(finished_line(saved, config, run_dir))
            return tally.row({f"{process}_restarts": count for process, count in before.items()})
        sinks.event(f"going on at {saved.agent_steps:,} agent steps")
    sinks.begin(tally.counters.agent_steps, tally.elapsed_before_s, {} if saved is None else saved.progress["sinks"])

    with ExitStack() as stack:
        fleet, learner = open_machinery(config, plan, state, fleet_state, run_dir, layout, sinks.event, stack)

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


def open_machinery(
    config: TrainConfig,
    plan: LearnerPlan,
    state: dict[str, Any],
    fleet_state: FleetState,
    run_dir: Path,
    layout: ParameterLayout,
    announce: Callable[[str], None],
    stack: ExitStack,
) -> tuple[Fleet, LearnerClient]:
    """The fleet and the learner of a sized configuration, in this process or on Ray; ``stack`` closes them."""
    num_actors = config.fleet.num_actors
    assert num_actors is not None
    if config.fleet.kind == "local":
        learner = LocalLearner(plan, state)  # the first, because it takes no time to find its device missing
        fleet: Fleet = LocalFleet(config, num_actors, fleet_state, announce)
        stack.callback(fleet.close)
        return fleet, learner
    # Only here is Ray needed: a machine without it can train with fleet=local.
    from actors.ray_fleet import RayFleet
    from learner.ray_learner import RayLearner
    from r2ac.cluster.session import ray_cluster

    stack.enter_context(ray_cluster(config, num_actors))
    fleet = RayFleet(config, num_actors, fleet_state, announce)
    stack.callback(fleet.close)
    learner = RayLearner(
        plan,
        state,
        newest_state=lambda: load_matching(checkpoints.find(run_dir), layout).learner,
        limits=config.fleet,
        announce=announce,
    )
    stack.callback(learner.close)
    return fleet, learner


def describe_environment(config: TrainConfig, announce: Callable[[str], None]) -> EnvSpec:
    """Builds one stream to see what it is; mistakes in its name or options come to light before anything is started."""
    env = make_env(config.env, 1, config.seed)
    try:
        for notice in env.notices():
            announce(notice)
        return env.spec
    finally:
        env.close()


def initial_weights(config: TrainConfig, spec: EnvSpec) -> tuple[ParameterLayout, Float[Tensor, " parameters"]]:
    """Weights of a new run: the same for the same seed, with the encoder of ``network.load_encoder`` if that is given."""
    network = build_seeded_network(config.network, config.rule.name, spec, config.seed)
    parameters = FlatParameters(network)
    if config.network.load_encoder is not None:
        copy_encoder(checkpoints.load(checkpoints.find(Path(config.network.load_encoder))), parameters)
    return parameters.layout, parameters.vector


def copy_encoder(source: Checkpoint, parameters: FlatParameters) -> None:
    """Overwrites the encoder's weights by those of a checkpoint.

    Raises:
        CheckpointError: if its encoder has other parameters.
    """
    theirs = {slot.name: slot for slot in source.layout.slots if slot.name.startswith("encoder.")}
    ours = {slot.name: slot for slot in parameters.layout.slots if slot.name.startswith("encoder.")}
    for name in theirs.keys() | ours.keys():
        if name not in theirs or name not in ours or theirs[name].shape != ours[name].shape:
            raise CheckpointError(
                f"network.load_encoder: the checkpoint's encoder is another one (they differ in {name}); "
                f"set network.encoder and network.features as it was trained"
            )
        ours[name].view(parameters.vector).copy_(theirs[name].view(source.vector))


def learner_plan(config: TrainConfig, layout: ParameterLayout) -> LearnerPlan:
    """Of a sized configuration. In ``sync`` and ``lockstep`` a batch is a round of the whole fleet, and the schedule ends it."""
    batch = config.learner.batch_segments
    assert batch is not None, "r2ac.training.sizing says how many"
    return LearnerPlan(config.learner, layout, batch if config.learner.mode == "async" else None, config.total_steps)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
