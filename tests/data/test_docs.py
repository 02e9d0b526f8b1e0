"""The example of docs/sampling.md runs."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "sampling.md"


def test_the_example_prints_contrasts_shapes_and_pairs(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    monkeypatch.chdir(corpus.parent)
    exec(compile(example, str(PAGE), "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("torch.Size([4, 2, 2, 1, 32, 64, 64])") == 2
