"""What bash offers after a tab: asked of a real bash, with the script that is printed."""

import subprocess
from pathlib import Path

import pytest

from r2ac.commands.train import main


def offered(script: str, line: str) -> list[str]:
    """What stands for the part after the last = of the line."""
    ask = '_rtrl_complete; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"],
        env={"COMP_LINE": line, "COMP_POINT": str(len(line)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_options_files_experiments_and_suites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    for name in ("mine", "a b; $(x)"):
        (tmp_path / "experiment" / f"{name}.yaml").touch()
    assert main(["--completion", "bash", f"--config-dir={tmp_path}"]) == 0
    script = capsys.readouterr().out
    assert offered(script, "rtrl-train actors.unr") == ["actors.unroll="]
    assert offered(script, "rtrl-train seed=1 rule=") == [
        "dense",
        "leak",
        "reference",
        "segment",
        "snap1",
        "tbptt",
        "uoro",
    ]
    assert offered(script, "rtrl-sweep experiment=mine") == ["mine"]
    assert offered(script, "rtrl-train env=dmlab30/") == ["dmlab30/"]
    assert offered(script, "rtrl-train env=a") == ["atari", "atari/"]
    assert offered(script, "rtrl-train env.open") == ["env.opening=ale", "env.opening=paper"]
    assert offered(script, "rtrl-train nothing") == []


def test_another_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", "fish"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
