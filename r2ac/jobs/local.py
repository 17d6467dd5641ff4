"""A job on this machine: a child process with a Ray of its own."""

import shlex
import subprocess
import sys
from pathlib import Path

from conf.submit_schema import LocalTarget
from r2ac.commands.stop_signals import passed_on
from r2ac.jobs.job import FAILED, SUCCEEDED, Job, SubmitError

LOG = "train.log"


def render(job: Job, target: LocalTarget) -> str:
    del target
    return shlex.join(command(job)) + "\n"


def submit(job: Job, target: LocalTarget, follow: bool) -> int:
    """Runs it here, or leaves it in the background with its output in the run folder."""
    del target
    if follow:
        # The signals that end a run are for the job; what waits for it must not cut its saving short.
        with subprocess.Popen(command(job)) as process, passed_on(process.send_signal):
            status = process.wait()
        print(f"job {job.name} {'succeeded' if status == 0 else f'failed with exit status {status}'}")
        return SUCCEEDED if status == 0 else FAILED
    if job.elsewhere:
        raise SubmitError(
            "follow=false writes its log into the run folder: set run_root to a local folder, or follow=true"
        )
    log = Path(job.run_dir) / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        process = subprocess.Popen(command(job), stdout=output, stderr=output, start_new_session=True)
    print(f"job {job.name} runs as process {process.pid}; log: {log}; stop it cleanly: kill -TERM {process.pid}")
    return SUCCEEDED


def command(job: Job) -> list[str]:
    """The training program, in the interpreter that runs this one."""
    return [sys.executable, "-m", "r2ac.commands.train", *job.words()]
