"""Every block of the page for people who come from nn.LSTM runs, one after the other, as it stands there."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "from-nn-lstm.md"


def test_the_code_of_the_page_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) == text.count("```") // 2 >= 7
    names: dict[str, object] = {}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        code = "\n" * line + block.group(1)  # so that an error names the line of the page
        exec(compile(code, str(PAGE), "exec"), names)
    assert "rule=segment" in capsys.readouterr().out
    assert isinstance(names["outputs"], torch.Tensor)
