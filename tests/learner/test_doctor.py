"""The doctor tells the truth about this machine, and survives what it examines."""

import json

import pytest

from conf.env_schema import ENV_CONFIGS
from learner import doctor
from learner.doctor_main import main


@pytest.mark.slow
def test_every_suite_is_played_and_the_rest_is_reported(capsys: pytest.CaptureFixture[str]):
    status = main(["--json"])
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert {f"env={suite}" for suite in ENV_CONFIGS} <= set(findings)
    for suite in ("atari", "gym", "tmaze"):
        assert findings[f"env={suite}"]["status"] == "ok", findings[f"env={suite}"]
    assert {"Python", "torch", "CUDA", "ray", "DMLab module", "shared memory", "disk"} <= set(findings)
    assert all(finding["advice"] for finding in findings.values() if finding["status"] != "ok")
    assert status == int(any(finding["status"] == "broken" for finding in findings.values()))


def test_a_suite_that_crashes_or_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "PLAY", "import os; os.abort()")
    assert doctor.suite_finding("atari").status == "broken"
    monkeypatch.setattr(doctor, "PLAY", "import time; time.sleep(60)")
    finding = doctor.suite_finding("atari", limit_s=0.5)
    assert (finding.status, finding.detail) == ("broken", "no answer within 0.5 s")


def test_a_missing_library_is_optional(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "PLAY", "import sys; print('pip install it'); sys.exit(3)")
    finding = doctor.suite_finding("procgen")
    assert (finding.status, finding.advice) == ("missing", "pip install it")


def test_an_unknown_option_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["--jsn"]) == 2
    assert capsys.readouterr().err == "error: unknown option '--jsn': expected --json or nothing\n"
