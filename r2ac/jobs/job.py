"""What is submitted: a training command that finds its run again, whoever starts it and how often."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conf.load import load_train
from conf.load_submit import without_interpolation
from conf.submit_schema import SubmitConfig
from r2ac.training.sizing import sized

_LOG_LINE = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\S*\s+\d+ \S+\] |warning: |Warning: |Flag --", re.ASCII)
_ERROR = re.compile(r"\berror\b|\bfatal\b|\bdenied\b|\binvalid\b", re.IGNORECASE)

SUCCEEDED, FAILED = 0, 1
"""Exit status of a job's final state."""


class SubmitError(RuntimeError):
    """A job that cannot be submitted: no such address, name in use, tool missing. One line for the user."""


class JobInUse(SubmitError):
    """The job runs already, or waits to."""


@dataclass(frozen=True, slots=True)
class Job:
    """A name and the training it stands for. Every attempt has the same run folder, and goes on from what it finds there."""

    name: str
    run_dir: str
    options: tuple[str, ...]
    below: str = ""
    """Path below the folder of all runs, where that is another one in the job's own file system; empty is ``name``."""

    @classmethod
    def of(cls, config: SubmitConfig, options: Sequence[str]) -> "Job":
        """A relative ``run_root`` is meant from here: jobs start in folders of their own."""
        job = cls(config.job_name, f"{config.run_root.rstrip('/')}/{config.job_name}", tuple(options))
        return job if job.elsewhere else replace(job, run_dir=str(Path(job.run_dir).absolute()))

    @property
    def elsewhere(self) -> bool:
        """Whether the run folder is no folder of this machine: a URL, or ``${oc.env:NAME}``, which only the job itself reads."""
        return "://" in self.run_dir or "${" in self.run_dir

    @property
    def given(self) -> set[str]:
        """Options that the user set."""
        return {word.partition("=")[0] for word in self.options}

    def words(self, **defaults: object) -> list[str]:
        """Words of ``rtrl-train``. ``defaults`` (``fleet__address`` for ``fleet.address``) give way to what the user said."""
        settings = {key.replace("__", "."): value for key, value in defaults.items()}
        settings.setdefault("logging.terminal", "plain")
        words = [f"{key}={value}" for key, value in settings.items() if key not in self.given]
        name = [] if "name" in self.given else [f"name={self.name}"]  # the runs of a sweep are named after what differs
        return [*self.options, *words, *name, f"run_dir={self.run_dir}", "resume=auto"]

    def command(self, **defaults: object) -> str:
        """The same as a line for a shell."""
        return shlex.join(["rtrl-train", *self.words(**defaults)])

    def actors_on(self, cores: int) -> int:
        """As many actors as fit on the cores of a cluster, or as ``fleet.num_streams`` makes of them."""
        config = load_train(without_interpolation(self.options))
        num_actors = sized(config, max(1, int(cores / min(1.0, config.actors.num_cpus or 1.0)))).fleet.num_actors
        assert num_actors is not None
        return num_actors


def run_tool(command: Sequence[str], text: str | None = None) -> str:
    """Output of a cluster's command-line tool.

    Raises:
        SubmitError: if it is not installed or fails; the line in which it says why.
    """
    if shutil.which(command[0]) is None:
        raise SubmitError(f"{command[0]} is not installed here: submit from a machine that has it, or use --dry-run")
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        said = explanation(done.stderr) or explanation(done.stdout) or f"exit status {done.returncode}"
        raise SubmitError(f"{' '.join(command[:3])} failed: {said}")
    return done.stdout


def explanation(output: str) -> str:
    """The line of a tool's output that says what went wrong: the first that calls itself an error, else the last.

    Before it stand log lines and warnings (kubectl's begin ``W1125 10:00:00.000000``), after it advice or a usage text.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not _LOG_LINE.match(line)] or [_LOG_LINE.sub("", line) for line in lines]
    errors = [line for line in lines if _ERROR.search(line)]
    return (errors or lines[-1:] or [""])[0]
