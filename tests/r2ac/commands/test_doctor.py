"""The doctor tells the truth about this machine, and survives what it examines."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from patience import wait_until

from conf.env_schema import ENV_CONFIGS
from r2ac.commands import doctor, doctor_checks
from r2ac.commands.doctor import main
from r2ac.commands.doctor_checks import Finding


@pytest.mark.slow
def test_every_suite_is_played_and_the_rest_is_reported(capsys: pytest.CaptureFixture[str]):
    status = main(["--json"])
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert {f"env={suite}" for suite in ENV_CONFIGS if suite != "dmlab30"} <= set(findings)
    for name in ("torch", "Ray", "env=atari", "env=gym", "env=tmaze", "env=copy_task", "env=minigrid"):
        assert findings[name]["status"] == "ok", findings[name]
    assert {"Python", "CUDA", "DMLab pictures", "mp4", "shared memory", "disk"} <= set(findings)
    assert all(finding["advice"] for finding in findings.values() if finding["status"] != "ok")
    assert status == int(any(finding["status"] == "broken" for finding in findings.values()))


@pytest.mark.parametrize(("broken", "status"), [(False, 0), (True, 1)])
def test_what_is_missing_is_no_failure_and_what_is_broken_is(
    broken: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def examine(words: Sequence[str]) -> Iterator[Finding]:
        assert words == ["env.dataset_path=pictures"]
        yield Finding("one", "ok", "works")
        yield Finding("two", "missing", "is not [there]", "get it")
        if broken:
            yield Finding("three", "broken", "is torn", "mend it")

    monkeypatch.setattr(doctor, "examine", examine)
    assert main(["env.dataset_path=pictures"]) == status
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    expected = [["✓", "one", "works"], ["–", "two", "is", "not", "[there]"], ["get", "it"]]
    assert lines == expected + [["✗", "three", "is", "torn"], ["mend", "it"]] * broken


@pytest.mark.seconds
def test_a_terminal_without_unicode_gets_words_instead_of_marks():
    program = (
        "import sys\n"
        "from r2ac.commands import doctor\n"
        "from r2ac.commands.doctor_checks import Finding\n"
        "doctor.examine = lambda path: [Finding('one', 'ok', 'works'), Finding('two', 'broken', 'is torn')]\n"
        "sys.exit(doctor.main([]))\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False
    )
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["ok", "one", "works"],
        ["broken", "two", "is", "torn"],
    ]
    assert result.returncode == 1


def test_a_suite_that_crashes_or_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_checks, "PLAY", "import os; os.abort()")
    finding = doctor_checks.suite_finding("atari")
    assert (finding.status, finding.detail) == ("broken", "ended with status -6")
    monkeypatch.setattr(doctor_checks, "PLAY", "import time; time.sleep(60)")
    finding = doctor_checks.suite_finding("atari", limit_s=0.5)
    assert (finding.status, finding.detail) == ("broken", "no answer within 0.5 s")


def test_the_cause_of_a_failure_is_its_last_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_checks, "PLAY", "print('before'); raise ValueError('the engine is torn')")
    assert doctor_checks.suite_finding("atari").detail == "ValueError: the engine is torn"


@pytest.mark.seconds
def test_nothing_that_a_hanging_suite_has_started_outlives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pid_file = tmp_path / "pid"
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(3600)\n"
    )

    class Hanging(subprocess.Popen[str]):
        """Whose limit is over as soon as it has started what is to end with it."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return super().wait()
            wait_until("the child", lambda: pid_file.exists() and pid_file.read_text())
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(doctor_checks.subprocess, "Popen", Hanging)
    assert doctor_checks.attempt(program).status is None
    child = Path("/proc") / pid_file.read_text() / "status"
    wait_until("the end of the child", lambda: not child.exists() or "\nState:\tZ" in child.read_text())


def test_a_missing_library_is_optional(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_checks, "PLAY", "import sys; print('pip install it'); sys.exit(3)")
    finding = doctor_checks.suite_finding("procgen")
    assert (finding.status, finding.advice) == ("missing", "pip install it")


@pytest.mark.slow
def test_dmlab_is_played_where_the_module_is_and_its_death_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "standins"))
    monkeypatch.setenv("FAKE_LAB", "{}")
    finding = doctor_checks.suite_finding("dmlab")
    assert (finding.status, finding.detail) == ("ok", "dmlab/rooms_watermaze: reset, 10 steps, picture 288x384x3")
    options = [f"env.dataset_path={tmp_path}"]
    (pictures,) = [found for found in doctor_checks._environments(["env=dmlab", *options]) if "pict" in found.name]
    assert pictures.status == "ok"
    monkeypatch.setenv("FAKE_LAB", json.dumps({"dataset": "broken"}))
    (pictures,) = [
        found for found in doctor_checks._more("dmlab", {"dataset_path": str(tmp_path)}) if "pict" in found.name
    ]
    assert pictures.status == "broken"


def test_a_suite_examines_more_with_the_options_that_were_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_checks, "PLAY", "import sys; print(*sys.argv[1:])")
    findings = list(doctor_checks._environments([f"env.dataset_path={tmp_path}"]))
    named = {finding.name: finding for finding in findings}
    assert [finding.name for finding in findings][-3:] == ["env=dmlab", "DMLab pictures", "zip"]
    assert "env=dmlab30" not in named
    expected = f"env=dmlab/psychlab_continuous_recognition env.dataset_path={tmp_path}"
    assert named["DMLab pictures"].detail == expected
    assert named["env=dmlab"].detail == "env=dmlab"


@pytest.mark.seconds
def test_an_environment_that_is_named_is_examined_with_its_options_instead_of_every_suite():
    (finding,) = doctor_checks._environments(["env=tmaze", "env.corridor=3"])
    assert (finding.name, finding.status) == ("env=tmaze", "ok")
    (finding,) = doctor_checks._environments(["env=tmaze", "env.corridor=0"])
    assert (finding.status, finding.detail) == ("broken", "env.corridor must be at least 1, got 0")


def test_an_unknown_option_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["--jsn"]) == 2
    expected = "error: unknown option '--jsn': expected --json, env=SUITE/NAME, env.dataset_path=FOLDER or nothing\n"
    assert capsys.readouterr().err == expected
