"""A job on Kubernetes: a KubeRay ``RayJob``, that is a Ray cluster of its own that goes when the training ends."""

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from conf.submit_schema import KubeRayTarget
from r2ac.jobs.job import FAILED, SUCCEEDED, Job, JobInUse, SubmitError, run_tool

POLL_S = 2.0
RUNS = "/r2ac/runs"
"""Where the claim is mounted; see docker/Dockerfile."""
USER = 1000
"""Of the image."""
LABEL = "r2ac/job"
"""On the pods of a job, whichever attempt's cluster they belong to."""
DASHBOARD_PORT, METRICS_PORT = 8265, 8080
FINISHED = ("Complete", "Failed")
SCHEMA = Path(__file__).parent / "rayjob.schema.json"


def render(job: Job, target: KubeRayTarget) -> str:
    """The manifests, checked.

    Raises:
        SubmitError: if it is not a RayJob, for example because of a quantity that Kubernetes cannot read.
    """
    document = manifest(job, target)
    check(document)
    documents = [network_policy(job, target), document] if target.network_policy else [document]
    return yaml.safe_dump_all(documents, sort_keys=False, width=160)


def submit(job: Job, target: KubeRayTarget, follow: bool) -> int:
    """Creates the RayJob, in place of a finished one of that name; Ctrl-C while following leaves it running.

    Raises:
        SubmitError: if kubectl is missing or fails, or the name is in use.
    """
    document = manifest(job, target)
    check(document)
    kubectl = _kubectl(target)
    present = run_tool([*kubectl, "get", "rayjob", job.name, "--ignore-not-found", "--output=json"])
    if present.strip():
        state = _deployment(json.loads(present))
        if state not in FINISHED:
            raise JobInUse(
                f"job name {job.name} is in use ({state}): kubectl delete rayjob {job.name}, or choose another job_name"
            )
        run_tool([*kubectl, "delete", "rayjob", job.name, "--wait=true"])
    if target.network_policy:
        run_tool([*kubectl, "apply", "--filename=-"], _dump(network_policy(job, target)))
    run_tool([*kubectl, "create", "--filename=-"], _dump(document))
    print(f"job {job.name} created in namespace {target.namespace}")
    if not follow:
        return SUCCEEDED
    try:
        return _follow(job, kubectl)
    except KeyboardInterrupt:
        print(f"\njob {job.name} goes on; follow it: {' '.join(kubectl)} logs --follow job/{job.name}")
        return SUCCEEDED


def manifest(job: Job, target: KubeRayTarget) -> dict[str, Any]:
    if not job.elsewhere:
        job = replace(job, run_dir=f"{RUNS}/{job.below or job.name}")
    entrypoint = job.command(
        fleet__address="auto",
        fleet__num_actors=job.actors_on(target.workers * target.worker_cpus),
        fleet__placement_timeout_s=600,
    )
    head = _pod(job, target, "head", target.head_cpus, target.head_memory, target.head_gpus, keeps_runs=True)
    # Ray would take 30 % of the pod's memory, and the disk where that is more than /dev/shm has.
    start = {"metrics-export-port": str(METRICS_PORT), "object-store-memory": str(target.object_store_bytes)}
    worker = _pod(job, target, "worker", target.worker_cpus, target.worker_memory, 0, keeps_runs=False)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": job.name, "namespace": target.namespace, "labels": {"app.kubernetes.io/name": "r2ac"}},
        "spec": {
            "entrypoint": entrypoint,
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": target.keep_s,
            "backoffLimit": target.retries,
            "rayClusterSpec": {
                "rayVersion": target.ray_version,
                # The operator makes a Secret for the cluster and gives it to all of its containers.
                "authOptions": {"mode": "token"},
                # Actors belong on workers: they would take the learner's cores.
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"} | start,
                    "template": head,
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "actors",
                        "replicas": target.workers,
                        "minReplicas": target.workers,
                        "maxReplicas": target.workers,
                        "rayStartParams": dict(start),
                        "template": worker,
                    }
                ],
            },
        },
    }


def network_policy(job: Job, target: KubeRayTarget) -> dict[str, Any]:
    """Who may reach the pods of a job: they themselves, the one that submits, the operator, and whoever reads their metrics."""
    submitter = {"podSelector": {"matchLabels": {"job-name": job.name}}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": job.name, "namespace": target.namespace, "labels": {"app.kubernetes.io/name": "r2ac"}},
        "spec": {
            "podSelector": {"matchLabels": {LABEL: job.name}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": {LABEL: job.name}}}]},
                {"from": [submitter, operator], "ports": [{"port": DASHBOARD_PORT}]},
                {"ports": [{"port": METRICS_PORT}]},
            ],
        },
    }


def _dump(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=160)


def check(document: dict[str, Any]) -> None:
    """Raises ``SubmitError`` naming the first field that is not as ``ray.io/v1`` has it."""
    import jsonschema

    try:
        jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    except jsonschema.ValidationError as error:
        raise SubmitError(f"not a valid RayJob: {error.json_path.removeprefix('$.')}: {error.message}") from None


def _pod(
    job: Job, target: KubeRayTarget, role: str, cpus: int, memory: str, gpus: int, *, keeps_runs: bool
) -> dict[str, Any]:
    resources = {"cpu": str(cpus), "memory": memory} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    volumes: list[dict[str, Any]] = [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": target.shared_memory}}
    ]
    mounts = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    if keeps_runs and target.runs_claim:
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": target.runs_claim}})
        mounts.append({"name": "runs", "mountPath": RUNS})
    container: dict[str, Any] = {
        "name": f"ray-{role}",
        "image": target.image,
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
        "resources": {"requests": resources, "limits": dict(resources)},
        "volumeMounts": mounts,
    }
    if target.secret:
        container["envFrom"] = [{"secretRef": {"name": target.secret}}]
    security = {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER}
    return {
        "metadata": {"labels": {LABEL: job.name}},
        "spec": {"securityContext": security, "containers": [container], "volumes": volumes},
    }


def _follow(job: Job, kubectl: list[str]) -> int:
    """Shows the log of each attempt once, and waits for the final state."""
    shown = None
    while True:
        found = json.loads(run_tool([*kubectl, "get", "rayjob", job.name, "--output=json"]))
        state, attempt = _deployment(found), found.get("status", {}).get("jobId")
        if state == "Running" and attempt != shown:
            shown = attempt
            subprocess.run([*kubectl, "logs", "--follow", f"job/{job.name}"], check=False)
            continue
        if state in FINISHED:
            status = found["status"]
            why = f": {status['message'].splitlines()[0]}" if status.get("message") and state == "Failed" else ""
            print(f"job {job.name} {status.get('jobStatus', state).lower()}{why}")
            return SUCCEEDED if status.get("jobStatus") == "SUCCEEDED" else FAILED
        time.sleep(POLL_S)


def _deployment(found: dict[str, Any]) -> str:
    return found.get("status", {}).get("jobDeploymentStatus") or "Initializing"


def _kubectl(target: KubeRayTarget) -> list[str]:
    context = [f"--context={target.context}"] if target.context else []
    return ["kubectl", *context, f"--namespace={target.namespace}"]
