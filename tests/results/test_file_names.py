"""Which file an example came from: beside the records and on the page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from planted import nets
from torch import nn

from robustatt.cli import main
from robustatt.errors import InputError
from robustatt.results.file_names import read_file_names


def ten() -> nn.Module:
    return nets.trained(nets.convolutional)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of a sample of a folder of pictures with odd names."""
    root = tmp_path_factory.mktemp("pictures")
    images, labels = nets.held_out(30)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / "set" / str(int(label))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f'odd, "{index}" </script>.png'.replace("/", "|"))
    flags = ["--model", "net=test_file_names:ten", "--data", str(root / "set"), "--sample", "12", "--eps", "16"]
    assert main(["sweep", *flags, "--out", str(root / "out")]) == 0
    return root


def test_every_example_has_its_file(swept: Path) -> None:
    names = read_file_names(swept / "out")
    records = pd.concat(map(pd.read_parquet, (swept / "out" / "records").glob("*.parquet")))
    clean = records[records.eps == "0/255"].set_index("index")
    assert set(names) == set(clean.index)
    for index, name in names.items():
        assert (swept / "set" / name).is_file()
        assert name.split("/")[0] == str(clean.label[index])


def test_the_page_names_them_and_nothing_breaks_out_of_it(swept: Path) -> None:
    assert main(["report", str(swept / "out")]) == 0
    page = (swept / "out" / "report.html").read_text()
    assert 'id="file-data"' in page
    assert "odd, " in page
    assert "</script>.png" not in page
    assert "<|script>" not in page


def test_a_damaged_list_is_said(swept: Path) -> None:
    (swept / "out" / "examples.csv").write_text("index,name\nx,y\n")
    with pytest.raises(InputError, match="is damaged"):
        read_file_names(swept / "out")
    assert read_file_names(swept) == {}
