"""Every knob of ``rtrl-submit`` and ``rtrl-sweep``: what a job is, and one class per kind of place where it can run.

``conf/target/*.yaml`` names the places.
"""

from dataclasses import dataclass, field

from omegaconf import MISSING

from conf.knobs import HELP, MAX_BYTES, knob


@dataclass
class TargetConfig:
    """Where a job runs; each kind adds its own options below."""

    kind: str = knob(MISSING, "a key of TARGET_CONFIGS")


@dataclass
class LocalTarget(TargetConfig):
    """This machine, a Ray of its own."""

    kind: str = "local"


@dataclass
class RayJobTarget(TargetConfig):
    """A running Ray cluster, through its job API (the dashboard's port)."""

    kind: str = "ray_job"
    address: str = knob("http://127.0.0.1:8265", "address of the cluster's dashboard", place=True)
    working_dir: str | None = knob(None, "folder sent to the cluster; null: r2ac is installed there", place=True)
    num_gpus: float = knob(
        0, "GPU share of the driver itself; the learner's is learner.num_gpus", minimum=0, maximum=1000
    )


@dataclass
class KubeRayTarget(TargetConfig):
    """Kubernetes with the KubeRay operator: a cluster that lives as long as the job."""

    kind: str = "kuberay"
    namespace: str = knob("default", "Kubernetes namespace", place=True)
    context: str | None = knob(None, "kubectl context; null is the current one", place=True)
    image: str = knob(
        "r2ac:latest", "image built from docker/Dockerfile, as the cluster's nodes can pull it", place=True
    )
    workers: int = knob(2, "worker pods", minimum=1, maximum=100_000)
    worker_cpus: int = knob(4, "cores of a worker pod", minimum=1, maximum=10_000)
    worker_memory: str = knob("8Gi", "memory of a worker pod")
    head_cpus: int = knob(2, "cores of the head pod, where driver and learner run", minimum=1, maximum=10_000)
    head_memory: str = knob("8Gi", "memory of the head pod")
    head_gpus: int = knob(0, "GPUs of the head pod, for learner.device=cuda", minimum=0, maximum=1000)
    shared_memory: str = knob("2Gi", "/dev/shm of a pod, which holds Ray's object store")
    object_store_bytes: int = knob(
        1_600_000_000, "Ray's object store; below shared_memory", minimum=80_000_000, maximum=MAX_BYTES
    )
    runs_claim: str | None = knob(
        "r2ac-runs", "PersistentVolumeClaim that holds the runs; null if run_root is a URL", place=True
    )
    secret: str | None = knob(
        None, "Secret whose entries become environment variables (WANDB_API_KEY, cloud keys)", place=True
    )
    ray_version: str = knob("2.60.0", "Ray of the image, for the operator (KubeRay 1.5.1 or later)")
    network_policy: bool = knob(True, "close the job's pods to others by a NetworkPolicy")
    retries: int = knob(
        2, "new clusters after a failure; each goes on from the last checkpoint", minimum=0, maximum=1_000_000
    )
    keep_s: int = knob(3600, "seconds that a finished job's record is kept", minimum=0, maximum=2**31 - 1)


@dataclass
class SlurmTarget(TargetConfig):
    """A SLURM allocation with Ray started on its nodes."""

    kind: str = "slurm"
    nodes: int = knob(2, "nodes of the allocation", minimum=1, maximum=100_000)
    cpus_per_node: int = knob(16, "cores per node", minimum=1, maximum=10_000)
    gpus_per_node: int = knob(0, "GPUs per node", minimum=0, maximum=1000)
    memory: str | None = knob(None, "memory per node, as sbatch --mem takes it; null is the partition's default")
    time_limit: str = knob("24:00:00", "as sbatch --time takes it; the job saves, ends and is queued again before it")
    partition: str | None = knob(None, "partition; null is the default")
    account: str | None = knob(None, "account; null is the default")
    setup: str = knob("source .venv/bin/activate", "shell line run first on the batch node")
    launcher: str = knob(
        "manual",
        "manual: ray start in one step per node, also on shared nodes; symmetric_run: ray symmetric-run, whole nodes only",
        choices=("manual", "symmetric_run"),
    )
    port: int = knob(6379, "port of Ray's head", minimum=1, maximum=65_535)
    scratch: str | None = knob(None, "folder for Ray's session files on each node; null is /tmp/ray", place=True)


TARGET_CONFIGS: dict[str, type[TargetConfig]] = {
    "local": LocalTarget,
    "ray_job": RayJobTarget,
    "kuberay": KubeRayTarget,
    "slurm": SlurmTarget,
}


@dataclass
class SubmitConfig:
    """A job: a name, a place, and what to train."""

    job_name: str = knob(MISSING, "lower-case letters, digits and dashes; the run goes to RUN_ROOT/JOB_NAME")
    run_root: str = knob("runs", "folder or URL (s3://...) that every attempt of the job can reach", place=True)
    follow: bool = knob(True, "show the log until the job ends; false returns at once")
    target: TargetConfig = field(default_factory=LocalTarget, metadata={HELP: "where it runs"})


@dataclass
class SweepConfig:
    """A sweep: a name, a place, and what to train in every combination."""

    sweep_name: str = knob(MISSING, "lower-case letters, digits and dashes; the runs go to RUN_ROOT/SWEEP_NAME/JOB")
    run_root: str = knob("runs", "folder or URL (s3://...) that every attempt of every job can reach", place=True)
    jobs: int | None = knob(
        None,
        "jobs at a time; null: one on this machine, as many as there is room for on SLURM",
        minimum=1,
        maximum=10_000,
    )
    halving_minutes: float | None = knob(
        None,
        "compare all combinations after so many minutes of training, go on with the better of them for longer, and so on until one is "
        "left (target=local); null trains every job to its end",
        minimum=0.01,
        maximum=1_000_000,
    )
    halving_keep: float = knob(
        0.5, "share of the combinations that goes on, for so many times as long", minimum=0.01, maximum=0.99
    )
    halving_metric: str = knob("mean_return_100", "what is compared, the mean over seeds; more is better")
    target: TargetConfig = field(default_factory=LocalTarget, metadata={HELP: "where they run"})
