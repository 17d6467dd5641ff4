"""A ``deepmind_lab`` that is installed and cannot be used: what is missing is named, and not taken for the level's fault."""

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from opened_dmlab import Opened

from conf.env_schema import DMLabConfig
from envs.base import MissingDependency
from envs.dmlab import checks
from envs.suite import Finding
from r2ac.commands import dmlab_cache, doctor_checks, train

absent = pytest.mark.skipif(
    any(importlib.util.find_spec(name) for name in ("dm_env", "pkg_resources")), reason="what should be missing is here"
)
FAULTS = [
    pytest.param(
        "import dm_env",
        "imports dm_env and pkg_resources, which its wheel does not declare: pip install dm-env 'setuptools<81'",
        marks=absent,
        id="undeclared",
    ),
    pytest.param(
        "raise ModuleNotFoundError(\"No module named 'imp'\", name='imp')",
        "imports imp, which Python 3.12 has no more: use Python 3.11",
        id="imp",
    ),
    pytest.param(
        "raise ImportError('libOSMesa.so.8: cannot open shared object file')",
        "is installed but cannot be imported: libOSMesa.so.8: cannot open shared object file",
        id="system library",
    ),
]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a module whose first line is given in the place of the real one, here and in new processes."""

    def write(line: str) -> None:
        package = tmp_path / "site" / "deepmind_lab"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(line + "\n")
        monkeypatch.syspath_prepend(str(package.parent))
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    return write


@pytest.mark.parametrize(("line", "sentence"), FAULTS)
def test_an_environment_says_what_the_module_lacks(
    install: Callable[[str], None], opened: Opened, line: str, sentence: str
):
    install(line)
    with pytest.raises(MissingDependency) as caught:
        opened(DMLabConfig()).reset()
    assert sentence in str(caught.value)
    assert "rooms_watermaze" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.seconds
@pytest.mark.parametrize("program", ["train", "dmlab-cache"])
def test_a_program_says_it_in_one_line(
    install: Callable[[str], None], tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
):
    install("raise ImportError('libOSMesa.so.8: cannot open shared object file')")
    if program == "train":
        words = ["env=dmlab", "network=impala", "fleet=local", "logging=quiet", f"run_dir={tmp_path}/run"]
        assert train.main(words) == 2
    else:
        assert dmlab_cache.main([f"level_cache={tmp_path}/levels", "num_levels=2", "workers=1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the deepmind_lab module is installed but cannot be imported: libOSMesa.so.8")
    assert said.count("\n") == 1


def test_the_doctor_does_not_advise_an_installation_that_cannot_help(
    install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    install("raise ImportError('libOSMesa.so.8: cannot open shared object file')")
    finding = doctor_checks.suite_finding("dmlab")
    assert finding.status == "missing"
    assert "libOSMesa.so.8" in finding.advice
    assert "make install" not in finding.advice
    monkeypatch.setattr(doctor_checks, "PLAY", "raise SystemExit(1)")
    assert "make install" not in doctor_checks.suite_finding("dmlab").advice
    assert "make install" in doctor_checks.suite_finding("atari").advice


def test_without_zip_a_level_that_builds_maps_is_refused_and_another_is_played(
    standin: Callable[..., None], opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("zip") is None
    opened(DMLabConfig(spare_engines=0), streams=1).reset()
    with pytest.raises(MissingDependency, match="rooms_keys_doors_puzzle builds its maps with the program zip, which"):
        opened(DMLabConfig(name="rooms_keys_doors_puzzle"))
    assert checks.zip_finding().status == "missing"


def test_pictures_are_looked_for_where_they_are_said_to_be(tmp_path: Path):
    asked: list[tuple[str, Mapping[str, str]]] = []

    def play(name: str, options: Mapping[str, str]) -> Finding:
        asked.append((name, options))
        return Finding("env=dmlab", "ok", "played")

    assert checks.pictures_finding(play, None).status == "missing"
    absent = checks.pictures_finding(play, f"{tmp_path}/nowhere")
    assert (absent.status, absent.detail) == ("broken", f"{tmp_path}/nowhere is not a folder")
    assert asked == []
    assert checks.pictures_finding(play, str(tmp_path)) == Finding("DMLab pictures", "ok", "played")
    assert asked == [("psychlab_continuous_recognition", {"dataset_path": str(tmp_path)})]
