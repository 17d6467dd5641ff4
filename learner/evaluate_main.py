"""``rtrl-evaluate``: plays whole games with a checkpoint, by its suite's own protocol, and prints and writes the returns."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.build import build_network
from actors.evaluation import Score, evaluate
from actors.precision import require_device
from conf.env_schema import AtariConfig, EnvConfig, ProcgenConfig
from conf.load import describe, load_evaluate
from conf.schema import EvaluateConfig, TrainConfig
from envs.base import EnvSpec
from envs.human_scores import ATARI, human_normalised
from envs.registry import make_env
from learner import checkpoint as checkpoints
from learner.checkpoint import Checkpoint, CheckpointError
from learner.user_mistakes import reported
from rtrl_core import FlatParameters, PolicyNetwork

Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print("usage: rtrl-evaluate checkpoint=PATH [option=value ...]\n\n" + describe(EvaluateConfig))
        return 0
    return reported(lambda: run(load_evaluate(arguments)))


def run(config: EvaluateConfig) -> int:
    path = checkpoints.find(Path(config.checkpoint), prefer="best")
    checkpoint = checkpoints.load(path)
    trained = checkpoint.config
    results: list[Result] = []
    for split, env_config in protocol(trained.env).items():
        env = make_env(env_config, min(config.num_envs, config.episodes), config.seed)
        try:
            network = load_network(checkpoint, trained, env.spec, config.device)
            for greedy in {"greedy": [True], "sampled": [False], "both": [True, False]}[config.policy]:
                score = evaluate(
                    network,
                    env if not results else make_env(env_config, env.num_envs, config.seed),
                    episodes=config.episodes,
                    greedy=greedy,
                    reward_clip=env_config.reward_clip,
                    seed=config.seed,
                )
                results.append(describe_score(score, env.spec, split, greedy))
        finally:
            env.close()
    document = {
        "checkpoint": str(path),
        "agent_steps": checkpoint.agent_steps,
        "environment": f"{trained.env.suite}/{trained.env.name}",
        "seed": config.seed,
        "results": results,
    }
    show(document, Console())
    if config.output is not None:
        Path(config.output).write_text(json.dumps(document, indent=2) + "\n")
    return 0


def protocol(env: EnvConfig) -> dict[str, EnvConfig]:
    """The environments that a suite is evaluated on, by the name of the split."""
    suites: dict[type[EnvConfig], Callable[[Any], dict[str, EnvConfig]]] = {
        # Whole games, not lives: the official code scored single lives (PAPER.md 5.1, defect 10).
        AtariConfig: lambda config: {"games": replace(config, episodic_life=False)},
        # The levels trained on, and three sets of levels never seen (PAPER.md 2.5).
        ProcgenConfig: lambda config: {
            "train": config,
            **{f"test {first}": replace(config, start_level=first, num_levels=200) for first in (1000, 1200, 1400)},
        },
    }
    return suites.get(type(env), lambda config: {"episodes": config})(env)


def load_network(checkpoint: Checkpoint, trained: TrainConfig, spec: EnvSpec, device: str) -> PolicyNetwork:
    """The checkpoint's policy.

    Raises:
        CheckpointError: if this program builds another network from the checkpoint's configuration.
    """
    network = build_network(trained.network, trained.rule.name, spec).to(require_device("device", device))
    parameters = FlatParameters(network)
    if parameters.layout.fingerprint != checkpoint.layout.fingerprint:
        raise CheckpointError(
            "the checkpoint is of another network than this version of the program builds from its configuration"
        )
    parameters.load(checkpoint.vector.to(device))
    return network


def describe_score(score: Score, spec: EnvSpec, split: str, greedy: bool) -> Result:
    result: Result = {
        "split": split,
        "policy": "greedy" if greedy else "sampled",
        "episodes": len(score.returns),
        "mean_return": score.mean,
        "std_return": score.std,
        "min_return": min(score.returns),
        "max_return": max(score.returns),
        "mean_length": sum(score.lengths) / len(score.lengths),
        "returns": score.returns,
    }
    suite, _, game = spec.name.partition("/")
    if suite == "atari" and game in ATARI:
        result["human_normalised"] = human_normalised(score.mean, ATARI[game])
    if score.levels:
        by_level: dict[str, list[float]] = {}
        for level, value in zip(score.levels, score.returns, strict=True):
            by_level.setdefault(spec.levels[level], []).append(value)
        result["level_returns"] = {level: sum(values) / len(values) for level, values in by_level.items()}
    return result


def show(document: Result, console: Console) -> None:
    table = Table(
        "split", "policy", "games", "return", "std", "best", "length", "human = 100 %", title=document["environment"]
    )
    for result in document["results"]:
        normalised = result.get("human_normalised")
        table.add_row(
            result["split"],
            result["policy"],
            str(result["episodes"]),
            f"{result['mean_return']:.2f}",
            f"{result['std_return']:.2f}",
            f"{result['max_return']:.2f}",
            f"{result['mean_length']:.0f}",
            "-" if normalised is None else f"{normalised:.1f} %",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
