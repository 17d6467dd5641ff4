"""What a run starts before its first step, in the whole program: only processes that work for it, only packages that it needs."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from patience import patience

HEAVY = ("torch._dynamo", "sympy", "matplotlib", "wandb", "tensorboard", "torch.utils.tensorboard")
"""Each takes about as long to import as torch itself, or is for a program that is not the training."""
ALWAYS_RUNNING = {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"}
"""Of Ray: without them there is none, or no metrics."""
WORDS = [
    *("experiment=tmaze", "env.corridor=10", "actors.num_envs=4", "actors.unroll=5", "actors.num_cpus=0.1"),
    *("network.num_units=16", "fleet.num_actors=2", "fleet.object_store_bytes=80_000_000"),
    *("logging.tensorboard=false", "logging.terminal=plain", "logging.interval_s=0"),
]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Every Python process that starts with it notes which heavy packages it imports, in ``imported``."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(
        textwrap.dedent(f"""\
            import sys
            class Watch:
                def find_spec(self, name, path, target=None):
                    if name in {HEAVY!r}:
                        with open({str(tmp_path / "imported")!r}, "a") as file:
                            file.write(name + " in " + " ".join(sys.orig_argv[:6]) + "\\n")
            sys.meta_path.insert(0, Watch())
            """)
    )
    ray_files = tempfile.mkdtemp(prefix="r2ac")  # short: Ray's sockets lie in it
    yield os.environ | {"PYTHONPATH": str(hooks), "RAY_TMPDIR": ray_files}
    shutil.rmtree(ray_files, ignore_errors=True)


def imported(tmp_path: Path) -> str:
    path = tmp_path / "imported"
    return path.read_text() if path.exists() else ""


def what(process: psutil.Process) -> str:
    command = process.cmdline()
    return command[0].split(".")[0] if command[0].startswith("ray::") else Path(command[0]).name


@pytest.mark.slow
def test_ray_runs_only_what_the_run_uses_and_nobody_imports_what_it_does_not_need(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "r2ac.commands.train", *WORDS, f"run_dir={tmp_path}/run", "total_steps=1_000_000"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said: list[str] = []
        while not any(
            " steps/s" in line for line in said
        ):  # an update: actors, learner and optimizer have done all they do
            said.append(process.stdout.readline())
            assert said[-1], "it ended"
        running = sorted(what(child) for child in psutil.Process(process.pid).children(recursive=True))
        process.terminate()
        output, _ = process.communicate(timeout=patience(60))
    assert process.returncode == 0, "".join(said) + output
    ours = [name for name in running if name not in ALWAYS_RUNNING]
    assert ours == ["ray::ActorProcess", "ray::ActorProcess", "ray::LearnerProcess"]
    logs = Path(environment["RAY_TMPDIR"], "ray", "session_latest", "logs")
    assert len(list(logs.glob("worker-*.out"))) == len(ours), "a worker was started for nothing"
    assert imported(tmp_path) == ""


@pytest.mark.slow
def test_training_in_one_process_imports_nothing_that_it_does_not_need(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    words = [*WORDS, "fleet=local", f"run_dir={tmp_path}/run", "total_steps=100"]
    command = [sys.executable, "-m", "r2ac.commands.train", *words]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=patience(120))
    assert imported(tmp_path) == ""


@pytest.mark.soak
def test_processes_of_a_local_ray_have_their_settings_from_its_start(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    script = """
        import os
        from conf.load import load_train
        from actors.ray_fleet import PROCESS_ENVIRONMENT
        from r2ac.cluster.session import ray_cluster
        with ray_cluster(load_train(["fleet.object_store_bytes=80_000_000"]), 1):
            import ray
            inside = ray.get(ray.remote(lambda: dict(os.environ)).remote())
        print(PROCESS_ENVIRONMENT.items() <= inside.items(), "MALLOC_ARENA_MAX" in os.environ)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=patience(120))
    assert done.stdout == "True False\n"
