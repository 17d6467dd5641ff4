"""``rtrl-evaluate``: plays whole games with a checkpoint, by its suite's own protocol, and prints and writes the returns."""

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.build import build_network
from actors.evaluation import Score, evaluate
from actors.precision import prepare_process, require_device
from conf.describe import describe
from conf.env_schema import EnvConfig
from conf.knobs import ConfigError
from conf.load import load_evaluate
from conf.one_line import one_line
from conf.schema import EvaluateConfig, TrainConfig
from envs.base import EnvSpec
from envs.registry import find_suite, make_env
from envs.suite import EvaluationProtocol, Suite, SuiteScore
from r2ac.commands.user_mistakes import printed, reported
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import Checkpoint, CheckpointError
from rtrl_core import FlatParameters, PolicyNetwork

Result = dict[str, Any]
REPEATED = ("env.", "env=", "network.", "rule.", "rule=")
"""Words about what is stored in the checkpoint, which the caller says again: see ``conf/stored.py``."""
POLICIES = {"greedy": [True], "sampled": [False], "both": [True, False]}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        return printed(
            "usage: rtrl-evaluate checkpoint=PATH [option=value ...]\n"
            "       again, of what it was trained with: env.PLACE=value, env=MODULE:SUITE, network.core=MODULE:CLASS\n\n"
            + describe(EvaluateConfig)
        )
    places = [word for word in arguments if word.startswith(REPEATED)]
    options = [word for word in arguments if word not in places]
    return reported(lambda: run(load_evaluate(options), places))


def run(config: EvaluateConfig, places: Sequence[str] = ()) -> int:
    """``places``: paths, addresses and modules of the environment, as the caller says them; those of the checkpoint are not followed."""
    output = writable(config.output)
    prepare_process(config.threads)
    path = checkpoints.find(Path(config.checkpoint), which=config.which)
    checkpoint = checkpoints.load(path)
    trained = checkpoint.trusted_config(places)
    suite = find_suite(trained.env.suite)
    plan = suite.protocol(trained.env)
    results: list[Result] = []
    for split, env_config in plan.splits.items():
        for greedy in POLICIES[plan.policy if config.policy == "auto" else config.policy]:
            with Console(stderr=True).status(Text(f"{one_line(split)}, {'greedy' if greedy else 'sampled'}")):
                results.append(play_split(config, suite, plan, checkpoint, trained, split, env_config, greedy))
    document = {
        "checkpoint": str(path),
        "agent_steps": checkpoint.agent_steps,
        "environment": f"{trained.env.suite}/{trained.env.name}",
        "seed": config.seed,
        "results": results,
        **suite_scores(suite.suite_score, results),
    }
    if output is not None:  # before the table: whoever reads that may be gone
        output.write_text(json.dumps(document, indent=2) + "\n")
    # A file or a pipe has no width to keep to.
    show(document, suite.suite_score, Console(width=None if sys.stdout.isatty() else 140, markup=False))
    return 0


def writable(output: str | None) -> Path | None:
    """Where the document goes; asked before hours of play rather than after them.

    Raises:
        ConfigError: if it cannot be written there.
    """
    if output is None:
        return None
    path = Path(output)
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"output={output}: expected a file in a folder that exists")
    return path


def play_split(
    config: EvaluateConfig,
    suite: Suite,
    plan: EvaluationProtocol,
    checkpoint: Checkpoint,
    trained: TrainConfig,
    split: str,
    env_config: EnvConfig,
    greedy: bool,
) -> Result:
    episodes = config.episodes or plan.episodes
    seeds = [config.seed + number for number in range(config.runs or plan.runs)]
    scores: list[Score] = []
    spec: EnvSpec | None = None
    for seed in seeds:
        with closing(make_env(env_config, min(config.num_envs, episodes), seed)) as env:
            spec = env.spec
            scores.append(
                evaluate(
                    load_network(checkpoint, trained, spec, config.device),
                    env,
                    episodes=episodes,
                    greedy=greedy,
                    reward_clip=env_config.reward_clip,
                    seed=seed,
                    max_steps=config.max_steps,
                )
            )
    assert spec is not None
    return describe_scores(suite, scores, spec, split, greedy)


def load_network(checkpoint: Checkpoint, trained: TrainConfig, spec: EnvSpec, device: str) -> PolicyNetwork:
    """The checkpoint's policy.

    Raises:
        CheckpointError: if this program builds another network from the checkpoint's configuration.
    """
    network = build_network(trained.network, trained.rule, spec).to(require_device("device", device))
    parameters = FlatParameters(network)
    if parameters.layout.fingerprint != checkpoint.layout.fingerprint:
        raise CheckpointError(
            "the checkpoint is of another network than this version of the program builds from its configuration"
        )
    parameters.load(checkpoint.vector.to(device))
    return network


def describe_scores(suite: Suite, runs: Sequence[Score], spec: EnvSpec, split: str, greedy: bool) -> Result:
    """One line of the table, from one or several runs; all numbers are over all of their games."""
    score = Score.of_runs(runs)
    result: Result = {
        "split": split,
        "policy": "greedy" if greedy else "sampled",
        "episodes": len(score.returns),
        "mean_return": score.mean,
        "std_return": score.std,
        "min_return": min(score.returns),
        "max_return": max(score.returns),
        "mean_length": sum(score.lengths) / len(score.lengths),
        "run_means": [run.mean for run in runs],
        "std_of_runs": float(np.std([run.mean for run in runs])),
        "returns": score.returns,
    }
    normalised = suite.split_score(spec, split, score.mean)
    if normalised is not None:
        result["human_normalised"] = normalised
    if score.levels:
        by_level: dict[str, list[float]] = {}
        for level, value in zip(score.levels, score.returns, strict=True):
            by_level.setdefault(spec.levels[level], []).append(value)
        result["level_returns"] = {level: sum(values) / len(values) for level, values in by_level.items()}
    return result


def suite_scores(whole: SuiteScore | None, results: Sequence[Result]) -> dict[str, float]:
    """The score of the whole suite by policy, where it has one and what was played makes one."""
    if whole is None:
        return {}
    returns: dict[str, dict[str, list[float]]] = {}
    for result in results:
        returns.setdefault(result["policy"], {})[result["split"]] = result["returns"]
    scores = {policy: whole.of(by_split) for policy, by_split in returns.items()}
    return {f"{whole.key}_{policy}": score for policy, score in scores.items() if score is not None}


def show(document: Result, whole: SuiteScore | None, console: Console) -> None:
    several = any(len(result["run_means"]) > 1 for result in document["results"])
    normalised = any("human_normalised" in result for result in document["results"])
    table = Table(title=one_line(document["environment"]), box=SIMPLE_HEAD)
    table.add_column("split", overflow="fold", min_width=10)
    table.add_column("policy", no_wrap=True)
    numbers = ["games", "return", "std", *["std of runs"] * several, "best", "length", *["human = 100"] * normalised]
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for result in document["results"]:
        human = result.get("human_normalised")
        table.add_row(
            result["split"],
            result["policy"],
            str(result["episodes"]),
            f"{result['mean_return']:.2f}",
            f"{result['std_return']:.2f}",
            *[f"{result['std_of_runs']:.2f}"] * several,
            f"{result['max_return']:.2f}",
            f"{result['mean_length']:.0f}",
            *["-" if human is None else f"{human:.1f}"] * normalised,
        )
    console.print(table)
    if whole is None:
        return
    for policy in ("greedy", "sampled"):
        if (score := document.get(f"{whole.key}_{policy}")) is not None:
            console.print(f"{whole.title}, {policy}: {whole.meaning}: {score:.1f} %")


if __name__ == "__main__":
    sys.exit(main())
