"""A folder of a user's own configuration files, which stand beside ours: ``--config-dir DIR``, or ``R2AC_CONFIG_DIR``.

DIR/experiment/mine.yaml      experiment=mine, and so for every group
DIR/env/maze.yaml             env=maze: "suite: procgen" and options of that suite
DIR/target/my_cluster.yaml    rtrl-submit target=my_cluster: "kind: slurm" and options of that kind
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig

from conf.env_schema import ENV_CONFIGS
from conf.knobs import ConfigError
from conf.names import with_home
from conf.words import quoted, take_flag

FLAG = "--config-dir"
VARIABLE = "R2AC_CONFIG_DIR"
OURS = Path(__file__).parent
_PACKAGE = "pkg://"


@dataclass(frozen=True, slots=True)
class Folder:
    """A user's folder, or nothing: then only our files are there."""

    given: str = ""
    """As it was typed: what a job elsewhere is told."""
    path: Path | None = None

    def files(self, group: str) -> list[str]:
        """The user's files of a group, without ours."""
        return [] if self.path is None else _names(self.path / group)

    def all_files(self, group: str) -> list[str]:
        """Ours and the user's; an environment's file of ours is its suite."""
        ours = list(ENV_CONFIGS) if group == "env" else _names(OURS / group)
        return ours + self.files(group)

    def file(self, group: str, name: str) -> Path:
        """Where a file lies that ``all_files`` names."""
        if name in self.files(group):
            assert self.path is not None
            return self.path / group / f"{name}.yaml"
        return OURS / group / f"{name}.yaml"

    def words(self) -> list[str]:
        """By which Hydra finds it."""
        if self.path is None:
            return []
        SourcesRegistry.instance().register(_UserFiles)
        return [f"hydra.searchpath=[{quoted(f'{_UserFiles.scheme()}://{self.path}')}]"]


def take_folder(words: Sequence[str]) -> tuple[Folder, list[str]]:
    """The folder that the words or the environment name, and the other words.

    Raises:
        ConfigError: if there is no such folder, or a file in it has the name of one of ours.
    """
    given, others = take_flag(words, FLAG, "-cd")
    source = FLAG if given else VARIABLE
    given = given or os.environ.get(VARIABLE)
    if not given:
        return Folder(), others
    path = _path_of(given, source).absolute()
    if not path.is_dir():
        raise ConfigError(
            f"{source}={given}: there is no such folder here; name one with experiment/, env/, target/ ..."
        )
    _refuse_shadows(path, source)
    return Folder(given, path), others


def _path_of(given: str, source: str) -> Path:
    if not given.startswith(_PACKAGE):
        return Path(with_home(source, given))
    module = given.removeprefix(_PACKAGE)
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"{source}={given}: there is no package {module} here; install it, or name a folder")
    return Path(found.submodule_search_locations[0])


def _refuse_shadows(path: Path, source: str) -> None:
    """Which of two files of one name was meant would depend on who reads it."""
    if path == OURS:
        raise ConfigError(f"{source}={path} is the program's own folder: leave it out")
    ours = [file.relative_to(OURS) for file in OURS.rglob("*.yaml")]
    ours += [Path("schema.yaml"), *(Path("env") / f"{suite}.yaml" for suite in ENV_CONFIGS)]
    for file in ours:
        if (path / file).exists():
            raise ConfigError(f"{path / file} has the name of a file of the program: give it another name")


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


class _UserFiles(FileConfigSource):
    """Files as Hydra reads them, and what every one of them would have to say is known: an experiment is about everything, and the
    file of an environment begins with its suite's options."""

    @staticmethod
    def scheme() -> str:
        return "r2ac-user"

    def load_config(self, config_path: str) -> ConfigResult:
        try:
            result = super().load_config(config_path)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            lines = " ".join(str(error).split())
            raise ConfigError(f"{self.path}/{config_path} is not YAML: {lines}") from None
        group, config = config_path.partition("/")[0], result.config
        if isinstance(config, ListConfig):
            raise ConfigError(f"{self.path}/{config_path} is a list: expected option: value")
        if group == "experiment":
            result.header["package"] = result.header.get("package") or "_global_"
        if group == "env" and isinstance(config, DictConfig) and "defaults" not in config and "suite" in config:
            config["defaults"] = [config["suite"], "_self_"]
        return result
