"""A checkpoint from somebody else, through the whole program: it sends no secret anywhere, imports nothing and writes nowhere."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from altered_checkpoint import alter

from r2ac.commands import evaluate, play, train
from r2ac.persistence.checkpoint import find

pytestmark = pytest.mark.slow
STANDINS = Path(__file__).parents[2] / "standins"
SIZES = [
    "fleet=local",
    "fleet.num_actors=1",
    "actors.num_envs=2",
    "actors.unroll=3",
    "network.num_units=8",
    "logging=quiet",
]


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address, and what was asked for there."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", asked
        listening.shutdown()


def set_options(run: Path, section: str, **options: Any) -> None:
    def change(manifest: dict[str, Any]) -> None:
        tree = yaml.safe_load(manifest["config"])
        tree[section] |= options
        manifest["config"] = yaml.safe_dump(tree)

    alter(find(run), change)


def test_a_stored_address_is_not_asked_and_a_secret_not_read(
    server: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    address, asked = server
    monkeypatch.syspath_prepend(str(STANDINS))
    monkeypatch.setenv("FAKE_LAB", "{}")
    monkeypatch.setenv("R2AC_SECRET", "very-secret")
    level = "lasertag_one_opponent_small"
    words = [
        f"env=dmlab/{level}",
        "network=impala",
        *SIZES,
        "network.features=8",
        "total_steps=12",
        f"run_dir={tmp_path}/run",
    ]
    assert train.main(words) == 0
    theirs = {"level_cache": f"{tmp_path}/theirs", "level_cache_remote": f"{address}/${{oc.env:R2AC_SECRET}}"}
    set_options(tmp_path / "run", "env", **theirs)
    words = [f"checkpoint={tmp_path}/run", "episodes=1", "num_envs=1", "runs=1", "max_steps=2000"]

    assert evaluate.main(words) == 0
    assert asked == []
    assert not (tmp_path / "theirs").exists()
    error = capsys.readouterr().err
    assert error.count("ignored, as it was not said again") == 1
    assert f"env.level_cache={tmp_path}/theirs, env.level_cache_remote={address}/${{oc.env:R2AC_SECRET}}" in error

    assert evaluate.main([*words, f"env.level_cache={tmp_path}/mine", f"env.level_cache_remote={address}/levels"]) == 0
    assert asked, "the address is one that the environment asks, once the caller says it"
    assert all(path.startswith("/levels/") for path in asked)
    assert "ignored" not in capsys.readouterr().err


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    assert train.main(["env=gym/CartPole-v1", "network=mlp", *SIZES, "total_steps=12", f"run_dir={tmp_path}/run"]) == 0
    return tmp_path / "run"


def test_a_stored_module_is_not_imported(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "their_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    set_options(trained, "env", name="their_module:CartPole-v1")
    for program in (evaluate.main, play.main):
        assert program([f"checkpoint={trained}"]) == 2
        error = capsys.readouterr().err
        assert "env.name=their_module:CartPole-v1, which can import a module" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "imported").exists()


def test_a_run_that_starts_from_somebody_elses_checkpoint_has_the_options_of_its_own_command_line(
    trained: Path, tmp_path: Path
):
    set_options(trained, "env", name="their_module:CartPole-v1", kwargs={"file": "/etc/passwd"})
    set_options(trained, "logging", wandb="online", wandb_project="theirs")
    words = ["env=gym/CartPole-v1", "network=mlp", *SIZES, f"run_dir={tmp_path}/mine", f"resume={trained}"]
    assert train.main([*words, "total_steps=24"]) == 0
    assert json.loads((tmp_path / "mine" / "summary.json").read_text())["agent_steps"] >= 24
    kept = (tmp_path / "mine" / "config.yaml").read_text()
    assert "their" not in kept
    assert "passwd" not in kept


def test_a_secret_of_the_command_line_is_in_no_file_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("R2AC_SECRET", "wJalrXUtnFEMI")
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = [
        "env=gym/CartPole-v1",
        "network=mlp",
        *SIZES,
        "total_steps=12",
        f"run_dir={tmp_path}/run",
        "logging.wandb=offline",
    ]
    words += ["fleet.address=ray://me:hunter22@${oc.env:R2AC_SECRET}:1", "logging.tensorboard=true"]
    assert train.main(words) == 0
    wandb.teardown()  # its helper process would serve every program that a later test starts
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"config.yaml", "manifest.json"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert b"hunter22" not in content, path
        assert b"wJalrXUtnFEMI" not in content, path
    printed = capfd.readouterr()
    assert "hunter22" not in printed.out + printed.err
    assert "wJalrXUtnFEMI" not in printed.out + printed.err


def test_an_error_does_not_show_the_password_of_an_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert train.main(["experiment=tmaze", *SIZES, "run_dir=nosuch://me:hunter22@host/run"]) == 2
    error = capsys.readouterr().err
    assert "nosuch://***@host/run" in error
    assert "hunter22" not in error
