"""Many jobs on SLURM as one array: a script of which each task takes the words of its own number."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from conf.submit_schema import SlurmTarget
from r2ac.jobs.job import Job, run_tool
from r2ac.jobs.slurm import Script, as_path, proposed, require_unused, script

LOG = "task-%a.log"
"""In the sweep's folder; sbatch puts the task's number in."""
PORTS = 1000
"""Tasks on one node have a Ray each, whose heads must not listen at one port."""
MOST_PORT = 65_535


def render(name: str, jobs: Mapping[int, Job], folder: Path, at_once: int | None, target: SlurmTarget) -> str:
    """The script of the tasks with these numbers.

    Raises:
        SubmitError: as ``slurm.script``.
    """
    lines = ["", "# Which of the sweep's jobs this task is.", 'case "$SLURM_ARRAY_TASK_ID" in']
    lines += [
        f"  {number}) words=({shlex.join(job.words(**proposed(job, target)))}) ;;" for number, job in jobs.items()
    ]
    ports = min(PORTS, MOST_PORT + 1 - target.port)
    lines += ["esac", f"port=$(({target.port} + SLURM_ARRAY_TASK_ID % {ports}))"]
    given = next(iter(jobs.values())).given  # in all of them: a sweep's jobs differ in values alone
    address = "" if "fleet.address" in given else ' "fleet.address=$address:$port"'
    parts = Script(
        name=name,
        log=f"{as_path(str(folder))}/{LOG}",
        tokens=shlex.quote(str(folder)),
        train=f'rtrl-train "${{words[@]}}"{address}',
        array=ranges(jobs) + (f"%{at_once}" if at_once else ""),
        choice="\n".join(lines),
        port="$port",
    )
    return script(target, parts)


def submit(name: str, jobs: Mapping[int, Job], folder: Path, at_once: int | None, target: SlurmTarget) -> None:
    """Queues them.

    Raises:
        SubmitError: if SLURM's tools are missing or fail, or an array of this name is queued or running.
    """
    require_unused(name)
    number = run_tool(["sbatch", "--parsable"], render(name, jobs, folder, at_once, target)).strip().partition(";")[0]
    print(f"sweep {name}: {len(jobs)} jobs queued as {number}_[{ranges(jobs)}]; logs: {folder}/task-NUMBER.log")


def ranges(numbers: Mapping[int, object]) -> str:
    """``0-3,7`` for 0, 1, 2, 3, 7."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
