"""``rtrl-sweep``: one run for each combination of options that are given several values, here or on a cluster."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from conf.combinations import combinations
from conf.describe import describe
from conf.knobs import ConfigError
from conf.load import load_train, to_yaml
from conf.load_submit import load_sweep, without_interpolation
from conf.schema import TrainConfig
from conf.spelling import unknown
from conf.submit_schema import SlurmTarget, SubmitConfig, SweepConfig
from r2ac.commands.cfg_flag import take_cfg
from r2ac.commands.error_line import print_error
from r2ac.commands.stop_signals import StopSignals
from r2ac.commands.submit import DRY_RUN, TARGETS
from r2ac.commands.user_mistakes import printed, reported
from r2ac.jobs import slurm_array
from r2ac.jobs.job import Job, JobInUse, SubmitError
from r2ac.monitoring.metrics import METRICS
from r2ac.persistence.checkpoint import CheckpointError
from r2ac.persistence.resume import finished
from r2ac.sweeps.halving import Contender, Halving
from r2ac.sweeps.local import LocalJob, LocalSweep
from r2ac.sweeps.record import SweepJob, jobs_of, read_record, write_record
from r2ac.training.parts import require_all_parts


@dataclass(frozen=True, slots=True)
class Planned:
    """A job of the sweep, ready to be started."""

    entry: SweepJob
    job: Job
    config: TrainConfig

    @property
    def is_finished(self) -> bool:
        """As far as this machine can see: the training itself says it too, and does nothing."""
        try:
            return not self.job.elsewhere and finished(self.config, Path(self.job.run_dir)) is not None
        except CheckpointError:  # which the job says itself, while the others go on
            return False


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, submitted or stopped cleanly, 2 a mistake in what was asked for, 1 a job failed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        return printed(lambda: describe(SweepConfig, arguments))
    return reported(lambda: run(arguments))


def run(arguments: Sequence[str]) -> int:
    only_shown, words = take_cfg(arguments)
    config, training = load_sweep([word for word in words if word != DRY_RUN])
    require_comparable(config)
    folder = record_folder(config)
    entries = jobs_of(config.sweep_name, combinations(training), read_record(folder))
    planned = [_planned(number, entry, config) for number, entry in enumerate(entries)]
    if only_shown:
        print("\n".join(f"--- # {each.entry.folder}\n{to_yaml(each.config)}".rstrip() for each in planned))
        return 0
    try:
        if DRY_RUN in words:
            print(_rendered(config, dict(enumerate(planned)), folder), end="")
            return 0
        write_record(folder, config.sweep_name, entries)
        if config.halving_minutes is not None:
            return _compared(config, planned, folder)
        left = {number: each for number, each in enumerate(planned) if not each.is_finished}
        if len(left) < len(planned):
            print(f"{len(planned) - len(left)} of {len(planned)} jobs are finished already")
        return _started(config, left, folder) if left else 0
    except SubmitError as error:
        print_error(error)
        return 2


def record_folder(config: SweepConfig) -> Path:
    """Where the sweep is on record, on this machine, also if its runs are not: beside the runs, else in ``runs/``."""
    is_here = "://" not in config.run_root and "${" not in config.run_root
    return (Path(config.run_root if is_here else "runs") / config.sweep_name).absolute()


def require_comparable(config: SweepConfig) -> None:
    """Raises ``ConfigError`` for a comparison that could not be made."""
    if config.halving_minutes is None:
        return
    if config.target.kind != "local":
        raise ConfigError(
            f"halving_minutes={config.halving_minutes:g} stops and goes on with jobs on this machine, which "
            f"target={config.target.kind} does not: use target=local, or leave it out"
        )
    named = METRICS.get(config.halving_metric)
    if named is None or named.per:
        raise ConfigError(
            unknown(
                "halving_metric", config.halving_metric, [name for name, metric in METRICS.items() if not metric.per]
            )
        )


def _planned(number: int, entry: SweepJob, config: SweepConfig) -> Planned:
    """Checked: a mistake in the last combination should not come to light when the first has been trained.

    Raises:
        ConfigError: see ``load_train``.
    """
    below = f"{config.sweep_name}/{entry.folder}"
    submitted = SubmitConfig(below, config.run_root, follow=False, target=config.target)
    in_root = Job.of(submitted, [*entry.words, f"name={entry.name}"])
    job = Job(f"{config.sweep_name}-{number}", in_root.run_dir, in_root.options, below)
    known = list(job.words()) if config.target.kind == "local" else without_interpolation(job.words())
    try:
        return Planned(entry, job, require_all_parts(load_train(known)))
    except ConfigError as error:
        raise ConfigError(f"{error} (job {entry.folder})") from None


def _rendered(config: SweepConfig, planned: dict[int, Planned], folder: Path) -> str:
    target = config.target
    if isinstance(target, SlurmTarget):
        jobs = {number: each.job for number, each in planned.items()}
        return slurm_array.render(config.sweep_name, jobs, folder, config.jobs, target)
    separator = "---\n" if target.kind == "kuberay" else ""
    return separator.join(TARGETS[target.kind].render(each.job, target) for each in planned.values())


def _local_job(each: Planned, folder: Path) -> LocalJob:
    return LocalJob(each.job, each.entry.folder, each.config.total_steps, folder / each.entry.folder)


def _compared(config: SweepConfig, planned: Sequence[Planned], folder: Path) -> int:
    """Exit status: 1 if any job failed. Raises ``ConfigError`` as ``Halving``."""
    assert config.halving_minutes is not None
    of_name: dict[str, list[Planned]] = {}
    for each in planned:
        of_name.setdefault(each.entry.name, []).append(each)
    contenders = [
        Contender(
            name,
            tuple(word for word in runs[0].entry.words if not word.startswith("seed=")),
            tuple(_local_job(each, folder) for each in runs),
        )
        for name, runs in of_name.items()
    ]
    of_folder = {each.entry.folder: each for each in planned}
    console, stop, statuses = Console(), StopSignals(), [0]

    def train(jobs: Sequence[LocalJob], minutes: float) -> bool:
        timed = [replace(job, until_s=60 * minutes) for job in jobs if not of_folder[job.label].is_finished]
        if todo := [job for job in timed if not job.has_trained]:
            statuses.append(LocalSweep(todo, config.jobs or 1, console, stop).run())
        return not stop.requested

    halving = Halving(
        contenders,
        folder,
        minutes=config.halving_minutes,
        keep=config.halving_keep,
        metric=config.halving_metric,
        train=train,
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    halving.run()
    return max(statuses)


def _started(config: SweepConfig, left: dict[int, Planned], folder: Path) -> int:
    if config.target.kind == "local":
        jobs = [_local_job(each, folder) for each in left.values()]
        return LocalSweep(jobs, config.jobs or 1, Console()).run()
    if isinstance(config.target, SlurmTarget):
        jobs = {number: each.job for number, each in left.items()}
        slurm_array.submit(config.sweep_name, jobs, folder, config.jobs, config.target)
        return 0
    return _submitted_one_by_one(config, [each.job for each in left.values()])


def _submitted_one_by_one(config: SweepConfig, jobs: Sequence[Job]) -> int:
    """All at once: the cluster queues what it has no room for.

    Raises:
        SubmitError: for the first that is refused for another reason than that it is still running.
    """
    if config.jobs is not None:
        raise SubmitError(
            f"jobs={config.jobs} is for target=local and target=slurm: with target={config.target.kind} all jobs are submitted "
            "at once, and the cluster queues them"
        )
    for job in jobs:
        try:
            TARGETS[config.target.kind].submit(job, config.target, False)
        except JobInUse:
            print(f"job {job.name} still runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
