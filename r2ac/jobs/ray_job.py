"""A job on a running Ray cluster, through its job API."""

import asyncio
import json
import os
from typing import Any

from conf.submit_schema import RayJobTarget
from r2ac.jobs.job import FAILED, SUCCEEDED, Job, JobInUse, SubmitError

NAME = "r2ac_job"
"""Key of the metadata by which the attempts of a job are found."""


def render(job: Job, target: RayJobTarget) -> str:
    return json.dumps({"address": target.address, **_request(job, target, attempt=1)}, indent=2) + "\n"


def submit(job: Job, target: RayJobTarget, follow: bool) -> int:
    """Submits the next attempt; Ctrl-C while following leaves it running.

    Raises:
        SubmitError: if the address does not answer, or an attempt of this job is still running.
    """
    client = connect(target.address)
    try:
        attempts = [found for found in client.list_jobs() if (found.metadata or {}).get(NAME) == job.name]
        active = [found.submission_id for found in attempts if not found.status.is_terminal()]
        if active:
            raise JobInUse(
                f"job name {job.name} is in use by {active[0]}: stop it (ray job stop {active[0]} --address {target.address}), "
                f"or choose another job_name"
            )
        submission = client.submit_job(**_request(job, target, attempt=len(attempts) + 1))
    except (RuntimeError, ConnectionError, ValueError) as error:
        if isinstance(error, SubmitError):
            raise
        raise SubmitError(f"the cluster at {target.address} refused the job: {_first_line(error)}") from None
    print(f"job {job.name} submitted as {submission}")
    return _follow(client, submission, target.address) if follow else SUCCEEDED


def connect(address: str) -> Any:
    """A client of the job API.

    Raises:
        SubmitError: if Ray is not installed or nothing answers.
    """
    # A token file that another Ray of this user left behind must not be sent or demanded; see RAY_AUTH_MODE=token for clusters with one.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise SubmitError("target=ray_job needs Ray with its dashboard: pip install 'r2ac[ray]'") from None
    from r2ac.cluster.addresses import JOB_API, AddressError, Endpoint, cluster_at, what_answers

    wanted = "expected the address of the cluster's dashboard, http://HOST:8265"
    try:
        endpoint = Endpoint.parse(cluster_at(address) if address == "auto" else address)
    except AddressError as error:
        raise SubmitError(str(error).replace("fleet.address", "target.address")) from None
    except ValueError:
        raise SubmitError(f"target.address={address}: {wanted}") from None
    if address == "auto":
        address = str(endpoint)
    elif "://" not in address and what_answers(endpoint) == JOB_API:
        address = f"http://{endpoint}"
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        found = what_answers(endpoint)
        what = _first_line(error) if found == JOB_API else f"{found} answers there"
        raise SubmitError(f"no Ray cluster answers at target.address={address}: {wanted}, but {what}") from None


def _request(job: Job, target: RayJobTarget, attempt: int) -> dict[str, Any]:
    environment = {"working_dir": target.working_dir} if target.working_dir else {}
    return {
        "submission_id": f"{job.name}-{attempt}",
        "entrypoint": job.command(fleet__address="auto"),
        "entrypoint_num_gpus": target.num_gpus,
        "runtime_env": environment,
        "metadata": {NAME: job.name},
    }


def _follow(client: Any, submission: str, address: str) -> int:
    async def show() -> None:
        async for text in client.tail_job_logs(submission):
            print(text, end="", flush=True)

    try:
        asyncio.run(show())
    except KeyboardInterrupt:
        print(
            f"\n{submission} goes on; follow it: ray job logs --follow {submission} --address {address}; "
            f"stop it: ray job stop {submission} --address {address}"
        )
        return SUCCEEDED
    except RuntimeError as error:
        print(f"the log broke off: {_first_line(error)}")
    details = client.get_job_info(submission)
    state = str(details.status.value)
    why = f": {details.message}" if state == "FAILED" and details.message else ""
    print(f"job {submission} {state.lower()}{why.splitlines()[0] if why else ''}")
    return SUCCEEDED if state == "SUCCEEDED" else FAILED


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
