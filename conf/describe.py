"""What ``--help`` prints: every option of a program with its default and meaning, and the files that are there to choose from."""

from collections.abc import Callable, Mapping, Sequence

from conf.env_schema import ENV_CONFIGS
from conf.env_words import env_of, suite_of
from conf.folder import Folder, take_folder
from conf.knobs import CHOICES, HELP
from conf.load import GROUPS
from conf.options import default, walk
from conf.schema import TrainConfig
from conf.submit_schema import TARGET_CONFIGS, SubmitConfig, SweepConfig
from conf.suites import suite_names

FLAGS = (
    "  --config-dir DIR   your own experiment/NAME.yaml, env/NAME.yaml, target/NAME.yaml ... beside ours; also R2AC_CONFIG_DIR",
    "  --cfg job          print the whole configuration as YAML, and do nothing else",
    "  --dry-run          print what would be submitted",
    "  --completion bash  print a script that completes options: source <(rtrl-train --completion bash)",
)


def describe(schema: type, words: Sequence[str] = (), parts: Mapping[str, Sequence[str]] | None = None) -> str:
    """Every option with its default and meaning.

    Args:
        words: of the user. The files of a folder that they name are listed too; of environments the options of the suite that they
            name, else of ours.
        parts: what options that name a part of the program may say, which is not known here.

    Raises:
        ConfigError: if there is no such folder, or a suite cannot be imported.
    """
    head, tail = _AROUND.get(schema, (_nothing, _nothing))
    folder, others = take_folder(words)
    return "\n".join([*head(folder), *_lines(schema, parts=parts or {}), *tail(others)])


def _lines(schema: type, prefix: str = "", parts: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    lines = []
    for option, spec in walk(schema, prefix):
        if option == "target.kind":  # says which file was chosen
            continue
        choices = spec.metadata.get(CHOICES) or (parts or {}).get(option)
        meaning = spec.metadata.get(HELP, "") + (f" ({' | '.join(choices)})" if choices else "")
        lines.append(f"  {option:38} {default(spec)!s:>14}   {meaning}")
    return lines


def _nothing(_: object) -> list[str]:
    return []


def _before_train(folder: Folder) -> list[str]:
    return [
        "usage: rtrl-train [experiment=NAME] [env=SUITE/NAME] [GROUP=FILE] [option=value ...] [--config-dir DIR] [--cfg job]",
        "",
        *FLAGS[:2],
        FLAGS[3],
        "",
        f"experiments: {', '.join(folder.all_files('experiment'))}",
        f"suites: {', '.join(suite_names())}; or MODULE:SUITE of your own (docs/environments.md)",
        *([f"environments of your own: {', '.join(own)}"] if (own := folder.files("env")) else []),
        *(f"{group}: {', '.join(folder.all_files(group))}" for group in GROUPS if group not in ("env", "experiment")),
        "",
    ]


def _after_train(words: Sequence[str]) -> list[str]:
    named = env_of(words)
    lines = []
    for suite, env in (ENV_CONFIGS if named is None else {suite_of(words): named}).items():
        lines += ["", f"env={suite}: {(env.__doc__ or '').strip().splitlines()[0]}", *_lines(env, "env.")]
    return lines


def _before_submit(folder: Folder) -> list[str]:
    return [
        "usage: rtrl-submit job_name=NAME [target=TARGET] [target.OPTION=VALUE ...] [--dry-run] [training options]",
        "",
        FLAGS[0],
        FLAGS[2],
        *_targets(folder),
    ]


def _before_sweep(folder: Folder) -> list[str]:
    return [
        "usage: rtrl-sweep sweep_name=NAME [jobs=N] [target=TARGET] [target.OPTION=VALUE ...] [--dry-run] [training options]",
        "",
        "Every combination of the values of training options becomes one run: seed=1,2,3 actors.unroll=range(10,40,10)",
        "env=atari/pong,atari/breakout experiment=glob(atari_*_rtrl) network.mlp_sizes=[64,64],[128]. A list is one value.",
        "",
        *FLAGS[:3],
        *_targets(folder),
    ]


def _targets(folder: Folder) -> list[str]:
    return ["", f"targets: {', '.join(folder.all_files('target'))}", "training options: rtrl-train --help", ""]


def _after_submit(words: Sequence[str]) -> list[str]:
    del words
    lines = []
    for kind, schema in TARGET_CONFIGS.items():
        lines += ["", f"target={kind}: {schema.__doc__}", *_lines(schema, "target.")]
    return lines


_AROUND: dict[type, tuple[Callable[[Folder], list[str]], Callable[[Sequence[str]], list[str]]]] = {
    TrainConfig: (_before_train, _after_train),
    SubmitConfig: (_before_submit, _after_submit),
    SweepConfig: (_before_sweep, _after_submit),
}
