"""docs/attention.md: its examples run, print what they say, and end in a figure."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest
import torch
from paths import ROOT
from PIL import Image

PAGE = (ROOT / "docs" / "attention.md").read_text()
EXAMPLES = dict(
    zip(("paper", "timm", "swin", "gate", "hugging-face"), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), strict=True)
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_docs_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in ("timm", "hugging-face"):
        pytest.importorskip("timm" if name == "timm" else "transformers")
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(said), warnings.catch_warnings():
        torch.manual_seed(0)
        exec(EXAMPLES[name], {"__name__": "example"})
    assert said.getvalue().splitlines() == re.findall(r"^# (.*)$", EXAMPLES[name], re.M)
    with Image.open(tmp_path / f"{name}.png") as figure:
        assert (
            len(
                set(
                    figure.convert("L").get_flattened_data()
                    if hasattr(figure, "get_flattened_data")
                    else figure.convert("L").getdata()
                )
            )
            > 10
        )
