"""Files that somebody else prepared: they take no more memory than they bring, and lead nothing out of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from robustatt import cli, data, models
from robustatt.cli.sweep import default_folder
from robustatt.errors import InputError
from robustatt.files import append_line
from robustatt.models.card import Card
from robustatt.models.checkpoint import load_checkpoint, save_checkpoint

resource = pytest.importorskip("resource", reason="memory is limited by POSIX means")
SPARE = 256 * 2**20


@contextmanager
def little_memory() -> Iterator[None]:
    """This process may take 256 MiB of addresses more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def card(**fields: object) -> Card:
    """Of a network that fits into a few kilobytes."""
    usual = {"name": "vgg", "width": 0.02, "classes": 3, "mean": (0, 0, 0), "std": (1, 1, 1), "data": "digits"}
    return Card.model_validate(usual | fields)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells how much memory a process has")
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"width": 16}, "has shape (1, 3, 3, 3), expected (1024, 3, 3, 3)"),
        ({"classes": 2**20, "width": 16}, "expected (1024, 3, 3, 3)"),
        ({"classes": 2**20}, "classify.1.weight has shape (3, 10), expected (1048576, 10)"),
        ({"classes": 2**62}, "classes 4611686018427387904"),
        ({"input_size": 10**6}, "input_size 1000000"),
        ({"name": "resnet164", "options": {"depth": 9 * 10**9 + 2}}, "depth 9000000002"),
    ],
    ids=str,
)
def test_a_card_cannot_ask_for_more_than_its_file_brings(asked: dict[str, object], said: str, tmp_path: Path) -> None:
    """16 times the paper's width were 15 GB, a million classes at that width 34 GB more."""
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, models.build("vgg", 3, 0.02).state_dict(), card(**asked))
    with little_memory(), pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_limit_holds() -> None:
    with little_memory(), pytest.raises(RuntimeError, match="memory"):
        torch.empty(2 * SPARE, dtype=torch.uint8)


def test_what_fits_is_loaded_with_room_of_its_own(tmp_path: Path) -> None:
    """A network that was compared on shapes alone has real weights afterwards, apart from the file."""
    path = tmp_path / "w.safetensors"
    network = models.build("vgg_att2", 3, 0.02).eval()
    state = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    save_checkpoint(path, state, card(name="vgg_att2"))
    again, _ = load_checkpoint(path)
    path.write_bytes(b"gone")
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again(image), network(image), rtol=0, atol=0)
    assert not any(tensor.is_meta for tensor in again.state_dict().values())
    assert all(parameter.requires_grad for parameter in again.parameters())


# Links among the results ------------------------------------------------------------------------------------

SWEEP = ("sweep", "--model", "vgg", "-n", "4", "--eps", "4", "--out")
GATE = ("plan.toml", "summary.json", "log.jsonl", "gallery/gallery.npz", "reference.json", "check.md", "check.xml")
PAGE = (
    "report.html",
    "comparison.html",
    "tables/summary.csv",
    "tables/flips.csv",
    "figures/accuracy.png",
    "figures/accuracy.svg",
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def gate(out: Path) -> list[int]:
    """A sweep and its check against itself; the exit codes."""
    outcome = ("--markdown", out / "check.md", "--junit", out / "check.xml")
    return [
        run(*SWEEP, out),
        run("check", out, "--update", out / "reference.json"),
        run("check", out, "--reference", out / "reference.json", *outcome),
    ]


def pages(out: Path) -> list[int]:
    """A sweep and what is shown of it."""
    return [
        run(*SWEEP, out),
        run("report", out),
        run("report", out, "--compare", out),
        run("export", out, "--to", "tensorboard"),
    ]


@pytest.mark.parametrize(
    ("work", "names"), [(gate, GATE), pytest.param(pages, PAGE, marks=pytest.mark.slow)], ids=["gate", "pages"]
)
def test_no_file_is_written_through_a_link(work: Callable[[Path], list[int]], names: tuple[str, ...], tmp_path: Path) -> None:
    """Every file that a first run left becomes a link to a file elsewhere; a second run writes all of them again."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    assert not any(work(out))
    made = contents(out)
    assert set(names) <= set(made)
    for name in made:
        target = elsewhere / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name != "log.jsonl":  # a link to what is not there yet would make a file
            target.write_bytes(b"mine" if "summary" in name else made[name])
        (out / name).unlink()
        (out / name).symlink_to(target)
    before = contents(elsewhere)
    (out / "plan.toml").unlink()
    assert not any(work(out))
    assert contents(elsewhere) == before
    assert {path.suffix for path in out.rglob("*") if path.is_symlink()} <= {".damaged"}
    assert set(contents(out)) >= set(made)


@pytest.mark.parametrize("name", ["records", "gallery", "figures", "tables"])
def test_a_folder_of_results_that_is_a_link_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    if name in ("figures", "tables"):
        assert run(*SWEEP, out) == 0
    (out / name).symlink_to(elsewhere)
    assert run(*(("report", out) if name in ("figures", "tables") else (*SWEEP, out))) == 2
    said = capsys.readouterr().err
    assert f"{out / name} is a link to {elsewhere}" in said
    assert not list(elsewhere.iterdir())


def test_a_log_is_appended_to_and_a_link_replaced(tmp_path: Path) -> None:
    log, target = tmp_path / "log.jsonl", tmp_path / "elsewhere"
    log.symlink_to(target)
    for line in "ab":
        append_line(log, line)
    assert log.read_text() == "a\nb\n"
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "folder"),
    [("..", "data"), (".", "data"), ("/", "data"), ("digits", "digits"), ("a/b.npz", "b.npz"), ("x/..", "data")],
)
def test_the_default_folder_lies_in_reports_out(data: str, folder: str) -> None:
    assert default_folder(data) == Path("reports/out") / folder


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells how much memory a process has")
def test_a_drawn_out_image_is_refused_before_it_is_resized(tmp_path: Path) -> None:
    """Two million pixels high and one wide: 16 wide it would take half a gigabyte."""
    (tmp_path / "cat").mkdir()
    Image.new("1", (1, 2_000_000)).save(tmp_path / "cat" / "1.png")
    with little_memory(), pytest.raises(InputError, match="1x2000000, which no picture is"):
        data.load(str(tmp_path), image_size=16).tensors([0])


def test_more_images_than_bytes_are_no_images(tmp_path: Path) -> None:
    """Run-length encoding holds a million equal rows in a few kilobytes, and a damaged footer any number."""
    rows = 200_000
    table = pa.table({"image": pa.array([b"x"] * rows).dictionary_encode(), "label": [0] * rows})
    pq.write_table(table, tmp_path / "test-0.parquet")
    assert (tmp_path / "test-0.parquet").stat().st_size < rows
    with pytest.raises(InputError, match="200,000 images in"):
        data.load(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "value"), [(6, 64), (8, 1), (10, 99)], ids=["newer version", "encrypted", "unknown compression"]
)
def test_a_zip_file_that_python_cannot_read_is_said_to_be_none(field: int, value: int, tmp_path: Path) -> None:
    """Fields of the central directory as APPNOTE.TXT numbers them: version needed, flags, compression method."""
    path = tmp_path / "d.npz"
    np.savez(path, images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.zeros(2, np.int64))
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        content[place + field] = value
        place = content.find(b"PK\x01\x02", place + 1)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a complete \.npz file"):
        data.load(str(path))
