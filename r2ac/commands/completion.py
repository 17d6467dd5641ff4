"""``--completion bash``: a script by which the shell completes options, files of groups, experiments and suites."""

import re

from conf.env_schema import ENV_CONFIGS
from conf.folder import Folder
from conf.knobs import CHOICES, ConfigError
from conf.load import GROUPS
from conf.options import walk
from conf.schema import TrainConfig

# The shell takes = and : for ends of words, and replaces only what comes after the last of them.
_SCRIPT = """\
_rtrl_complete() {{
  local line=${{COMP_LINE:0:COMP_POINT}}
  local word=${{line##*[[:space:]]}}
  COMPREPLY=($(compgen -W {words} -- "$word"))
  COMPREPLY=("${{COMPREPLY[@]#"${{word%"${{word##*[=:]}}"}}"}}")
}}
complete -o nospace -F _rtrl_complete rtrl-train rtrl-sweep
"""


def completion(shell: str, folder: Folder) -> str:
    """The script, which knows the files that are there now.

    Raises:
        ConfigError: for another shell.
    """
    if shell != "bash":
        raise ConfigError(f"--completion={shell}: only bash is known; zsh reads the same script after bashcompinit")
    words = [f"{group}={name}" for group in GROUPS for name in folder.all_files(group)]
    words += [f"env={suite}/" for suite in ENV_CONFIGS]
    options = [*walk(TrainConfig)]
    for env in ENV_CONFIGS.values():
        options += walk(env, "env.")
    for option, spec in options:
        words += [f"{option}={choice}" for choice in spec.metadata.get(CHOICES) or [""]]
    known = sorted({word for word in words if re.fullmatch(r"[\w./=-]+", word)})
    return _SCRIPT.format(words=f"'{' '.join(known)}'")
