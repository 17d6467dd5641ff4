"""Words and stored configurations of any content become a valid object or one line, and nothing else."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import yaml
from anything import JSON, WORDS, cases
from hypothesis import given
from hypothesis import strategies as st

from conf import load_submit as submitting
from conf.data_yaml import read_yaml
from conf.knobs import ConfigError, validate
from conf.load import load_evaluate, load_train, to_yaml
from conf.schema import EvaluateConfig, TrainConfig
from conf.stored import from_yaml, read_verbatim
from conf.submit_schema import TARGET_CONFIGS, SubmitConfig
from r2ac.commands.submit import TARGETS
from r2ac.jobs.job import Job, SubmitError

BASE = yaml.safe_load(to_yaml(TrainConfig()))
OPTIONS = [f"{section}.{name}" for section, values in BASE.items() if isinstance(values, dict) for name in values]
OPTIONS += [name for name, value in BASE.items() if not isinstance(value, dict)]
VALUES = st.integers().map(str) | st.floats(allow_subnormal=False).map(str) | WORDS


def complaint(read: Callable[[], Any]) -> str:
    """What is said of what cannot be used; empty if it can."""
    try:
        read()
    except (ConfigError, SubmitError) as error:
        return str(error)
    return ""


@pytest.mark.seconds
@cases(600)
@given(text=WORDS)
def test_any_text_is_yaml_of_plain_data_or_one_line(text: str):
    assert "\n" not in complaint(lambda: read_yaml(text, "it"))


@pytest.mark.seconds
@cases(50)
@given(option=st.sampled_from(OPTIONS), value=JSON)
def test_any_value_in_a_stored_configuration_is_read_as_it_is_or_one_line(option: str, value: Any):
    tree = yaml.safe_load(yaml.safe_dump(BASE))
    section, _, name = option.rpartition(".")
    (tree[section] if section else tree)[name] = value
    text = yaml.safe_dump(tree)

    def read() -> None:
        config = read_verbatim(text)
        assert read_verbatim(to_yaml(config)) == config

    assert "\n" not in complaint(read)


@cases(300)
@given(text=WORDS)
def test_any_text_is_a_stored_configuration_or_one_line(text: str):
    assert "\n" not in complaint(lambda: from_yaml(text))


@cases(200)
@given(key=st.sampled_from([spec.name for spec in fields(EvaluateConfig)]) | st.text(max_size=8), value=VALUES)
def test_any_word_of_an_evaluation_is_an_option_or_one_line(key: str, value: str):
    assert "\n" not in complaint(lambda: validate(load_evaluate(["checkpoint=x", f"{key}={value}"])))


@pytest.mark.seconds
@cases(40)
@given(key=st.sampled_from(OPTIONS) | st.text(max_size=8), value=VALUES)
def test_any_word_of_a_training_is_an_option_or_one_line(key: str, value: str):
    assert "\n" not in complaint(lambda: validate(load_train([f"{key}={value}"])))


@pytest.mark.seconds
@pytest.mark.parametrize("kind", TARGET_CONFIGS)
def test_any_word_of_a_submission_is_a_job_of_one_command_or_one_line(kind: str, monkeypatch: pytest.MonkeyPatch):
    """The words of the training in it are fed with anything above."""
    config = load_train([])
    monkeypatch.setattr("conf.load_submit.load_train", lambda words: config)
    monkeypatch.setattr("r2ac.jobs.job.load_train", lambda words: config)
    keys = [spec.name for spec in fields(SubmitConfig)] + [
        f"target.{spec.name}" for spec in fields(TARGET_CONFIGS[kind])
    ]

    @cases(60)
    @given(key=st.sampled_from(keys), value=VALUES)
    def check(key: str, value: str) -> None:
        def submit() -> None:
            submitted, words = submitting.load_submit([f"target={kind}", "job_name=a", f"{key}={value}"])
            text = TARGETS[submitted.target.kind].render(Job.of(submitted, words), submitted.target)
            lines = [line for line in text.splitlines() if line.startswith("#SBATCH")]
            assert len(lines) <= 15
            assert all(line.startswith("#SBATCH --") for line in lines)

        assert "\n" not in complaint(submit)

    check()
