"""``rtrl-submit``: renders a training job for the place where it shall run, submits it and follows it to its end."""

import sys
from collections.abc import Sequence

from conf.describe import describe
from conf.load import load_train
from conf.load_submit import load_submit, without_interpolation
from conf.submit_schema import SubmitConfig
from r2ac.commands.error_line import print_error
from r2ac.commands.user_mistakes import printed, reported
from r2ac.jobs import kuberay, local, ray_job, slurm
from r2ac.jobs.job import Job, SubmitError
from r2ac.training.parts import require_all_parts

TARGETS = {"local": local, "ray_job": ray_job, "kuberay": kuberay, "slurm": slurm}
"""Per kind of target: ``render(job, target)`` and ``submit(job, target, follow)``."""
DRY_RUN = "--dry-run"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 submitted or succeeded, 2 a mistake in what was asked for, 1 the job failed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        return printed(lambda: describe(SubmitConfig, arguments))
    return reported(lambda: run(arguments))


def run(arguments: Sequence[str]) -> int:
    try:
        config, options = load_submit([word for word in arguments if word != DRY_RUN])
        require_all_parts(load_train(without_interpolation(options)))
        place = TARGETS[config.target.kind]
        job = Job.of(config, options)
        if DRY_RUN in arguments:
            print(place.render(job, config.target), end="")
            return 0
        return place.submit(job, config.target, config.follow)
    except SubmitError as error:
        print_error(error)
        return 2


if __name__ == "__main__":
    sys.exit(main())
