"""A user's own folder of configuration files: found beside ours, never in their place, and every mistake in it is one line."""

import shlex
from pathlib import Path

import pytest
import yaml

from conf.env_schema import ProcgenConfig
from conf.folder import VARIABLE
from conf.knobs import ConfigError
from conf.load import load_train, to_yaml
from conf.load_submit import load_submit
from conf.places import Interpolated
from conf.stored import read_verbatim
from r2ac.commands.submit import DRY_RUN
from r2ac.commands.submit import main as submit
from r2ac.commands.train import main as train

FILES = {
    "experiment/mine.yaml": "defaults:\n  - override /env: maze\n  - override /network: small\ntotal_steps: 5000\n",
    "experiment/row.yaml": "# @package _global_\ndefaults:\n  - /paper/atari\n  - override /rule: tbptt\nname: my_row\n",
    "experiment/corridor.yaml": "defaults: [{override /env: tmaze}]\nenv: {corridor: 9}\n",
    "env/maze.yaml": "suite: procgen\nname: maze\nnum_levels: ${seed}\n",
    "env/coin.yaml": "defaults: [procgen]\nname: coinrun\nmode: easy\n",
    "env/nothing.yaml": "name: x\n",
    "env/wrong.yaml": "suite: procgen\nlevels: 3\n",
    "network/small.yaml": "encoder: mlp\nmlp_sizes: [32]\n",
    "logging/broken.yaml": "a: [1\n",
    "logging/list.yaml": "- 1\n",
    "logging/cloud.yaml": "wandb_project: ${oc.env:R2AC_PROJECT}\n",
    "target/my_cluster.yaml": "kind: slurm\ntime_limit: 12:00:00\nnodes: 3\nsetup: source ${HOME}/x\n",
    "target/typo.yaml": "kind: slurm\nnode: 3\n",
    "target/kindless.yaml": "nodes: 3\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    path = tmp_path / "my conf, it's"
    for name, text in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    monkeypatch.chdir(path)
    return path


def test_an_experiment_of_ones_own_composes_ones_own_environment_and_network(folder: Path) -> None:
    config = load_train([f"--config-dir={folder}", "experiment=mine", "seed=4"])
    assert config.env == ProcgenConfig(name="maze", num_levels=4)
    assert (config.network.encoder, config.network.mlp_sizes, config.total_steps) == ("mlp", [32], 5000)
    assert config.name == "mine"
    assert read_verbatim(to_yaml(config)) == config


def test_it_may_build_on_our_files(folder: Path) -> None:
    config = load_train(["--config-dir", str(folder), "experiment=row"])
    assert (config.name, config.rule.name, config.actors.unroll) == ("my_row", "tbptt", 50)


@pytest.mark.parametrize("experiment", [[], ["experiment=atari_breakout"], ["experiment=corridor"]])
def test_an_environment_of_ones_own_wins_over_the_experiments(folder: Path, experiment: list[str]) -> None:
    if experiment == ["experiment=corridor"]:  # whose option no ProcGen has: said, as for any suite
        with pytest.raises(ConfigError, match="Key 'corridor' not in 'ProcgenConfig'"):
            load_train([f"--config-dir={folder}", "env=coin", *experiment])
        return
    config = load_train([f"--config-dir={folder}", "env=coin", *experiment, "env.start_level=7"])
    assert config.env == ProcgenConfig(name="coinrun", mode="easy", start_level=7)
    assert config.name == ("atari_breakout_coin" if experiment else "coin")


@pytest.mark.parametrize("flag", [["--config-dir", "."], ["--config-dir=."], ["-cd", "."], []])
def test_the_folder_is_named_in_any_of_these_ways(
    folder: Path, flag: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not flag:
        monkeypatch.setenv(VARIABLE, ".")
    assert load_train([*flag, "network=small"]).network.mlp_sizes == [32]


def test_what_is_interpolated_in_a_file_is_stored_as_it_was_typed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2AC_PROJECT", "very-secret")
    config = load_train([f"--config-dir={folder}", "logging=cloud"])
    assert isinstance(config.logging.wandb_project, Interpolated)
    assert config.logging.wandb_project == "very-secret"
    assert "very-secret" not in to_yaml(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-dir=/nope"], "--config-dir=/nope: there is no such folder here"),
        (["--config-dir"], "--config-dir needs a value"),
        (["--config-dir=.", "--config-dir=.."], r"--config-dir is given 2 times: ., ..; give one"),
        (["--config-dir=pkg://no.such"], "there is no package no.such here"),
        (["--config-dir=pkg://conf"], "is the program's own folder"),
        (["--config-dir=.", "env=nothing"], r"env/nothing.yaml does not say what it is about: begin with suite: NAME"),
        (["--config-dir=.", "env=wrong"], "env.levels: In 'env/wrong': Key 'levels' not in 'ProcgenConfig'"),
        (["--config-dir=.", "network=smal"], "unknown network 'smal': did you mean small"),
        (["--config-dir=.", "logging=broken"], "logging/broken is not YAML: "),
        (["--config-dir=.", "logging=list"], "logging/list is a list: expected option: value"),
        (["experiment=mine"], "unknown experiment 'mine'"),
        (["network=my.nets:Net"], "unknown network 'my.nets:Net'"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as failure:
        load_train(words)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("name", ["rule/tbptt.yaml", "env/atari.yaml", "schema.yaml", "target/slurm.yaml"])
def test_a_file_with_the_name_of_one_of_ours_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x: 1\n")
    with pytest.raises(ConfigError, match=f"{name} has the name of a file of the program: give it another name"):
        load_train(["--config-dir=."])


def test_a_target_of_ones_own_is_a_place_for_jobs(folder: Path) -> None:
    config, training = load_submit(["--config-dir=.", "target=my_cluster", "job_name=a", "experiment=mine"])
    target = config.target
    assert (target.kind, target.nodes, target.time_limit, target.setup) == (  # pyright: ignore[reportAttributeAccessIssue]
        "slurm",
        3,
        "12:00:00",
        "source ${HOME}/x",
    )
    assert training == ["--config-dir=.", "experiment=mine"]
    config, _ = load_submit(["--config-dir=.", "target=my_cluster", "target.nodes=5", "job_name=a"])
    assert config.target.nodes == 5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("typo", r"unknown option of .*target/typo.yaml 'target.node': did you mean target.nodes"),
        ("kindless", r"target/kindless.yaml must begin with kind: one of local, ray_job, kuberay, slurm"),
        ("my_clustr", "unknown target 'my_clustr': did you mean my_cluster"),
    ],
)
def test_a_mistake_in_a_target_is_one_line(folder: Path, target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_submit(["--config-dir=.", f"target={target}", "job_name=a"])


@pytest.mark.parametrize("from_variable", [False, True])
@pytest.mark.parametrize("target", ["my_cluster", "ray_job", "kuberay", "local"])
def test_a_job_is_told_of_the_folder_as_it_was_given_and_a_local_one_where_it_is(
    folder: Path, target: str, from_variable: bool, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = ["--config-dir=../my conf, it's"]
    if from_variable:
        monkeypatch.setenv(VARIABLE, flag.pop().partition("=")[2])
    assert submit([*flag, f"target={target}", "job_name=a", "experiment=mine", DRY_RUN]) == 0
    text = capsys.readouterr().out
    given = str(Path.cwd() / "../my conf, it's") if target == "local" else "../my conf, it's"
    if target == "kuberay":
        text = next(part for part in yaml.safe_load_all(text) if part["kind"] == "RayJob")["spec"]["entrypoint"]
    if target == "ray_job":
        text = yaml.safe_load(text)["entrypoint"]
    line = next(line for line in text.splitlines() if "experiment=mine" in line)
    assert f"--config-dir={given}" in shlex.split(line.removesuffix("&"))


def test_the_configuration_of_a_run_is_printed_and_nothing_is_started(folder: Path, capsys) -> None:
    assert train(["--cfg", "job", "--config-dir=.", "experiment=mine", "run_dir=${oc.env:HOME}/x"]) == 0
    text = capsys.readouterr().out
    printed = yaml.safe_load(text)
    assert (printed["env"]["name"], printed["total_steps"], printed["run_dir"]) == ("maze", 5000, "${oc.env:HOME}/x")
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("kind", ["hydra", "all", "x"])
def test_other_kinds_of_configuration_are_one_line(kind: str, capsys) -> None:
    assert train(["--cfg", kind]) == 2
    assert capsys.readouterr().err == (
        f"error: --cfg={kind}: only --cfg job is known, which prints the configuration of the run\n"
    )


def test_help_lists_ones_own_files(folder: Path, capsys) -> None:
    assert train(["--help", "--config-dir=."]) == 0
    text = capsys.readouterr().out
    assert "environments of your own: coin, maze, nothing, wrong" in text
    assert "tmaze_r2d2, corridor, mine, row" in text
    assert submit(["--help", "--config-dir=."]) == 0
    assert "my_cluster" in capsys.readouterr().out
    assert train(["--help", "--config-dir=/nope"]) == 2
