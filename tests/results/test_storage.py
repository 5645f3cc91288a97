"""Records anywhere: folders, URLs, and places that cannot be written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from test_records import COLUMNS, CONTENT

from robustatt import cli
from robustatt.attack import recipe_files as recipes
from robustatt.engine.options import ExecutorOptions
from robustatt.engine.sources import load_data
from robustatt.engine.sweep import run
from robustatt.eps import parse_grid
from robustatt.errors import InputError
from robustatt.plan import ModelEntry, Plan
from robustatt.results.records import Store
from robustatt.results.storage import LocalStorage, RemoteStorage, place


class Slow(MemoryFileSystem):
    """Not one of the stores whose put is atomic; files only appear whole if they are moved into place."""

    protocol = "slow"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    puts: ClassVar[list[str]] = []

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:  # type: ignore[override]
        Slow.puts.append(path)
        super().pipe_file(path, value)


class Forbidden(MemoryFileSystem):
    protocol = "forbidden"

    def pipe_file(self, *_: Any, **__: Any) -> None:  # type: ignore[override]
        raise PermissionError("Access Denied")


fsspec.register_implementation("slow", Slow, clobber=True)
fsspec.register_implementation("forbidden", Forbidden, clobber=True)


@pytest.fixture(params=["folder", "file", "memory", "slow"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    name = tmp_path.name
    return {
        "folder": tmp_path / "records",
        "file": f"file://{tmp_path}/some%20records",
        "memory": f"memory://{name}/records",
        "slow": f"slow://{name}/records",
    }[request.param]


def test_a_store_anywhere(where: str | Path) -> None:
    store = Store(where)
    assert store.missing(["a", "b"]) == {"a", "b"}
    store.check()
    assert store.missing(["a", "b"]) == {"a", "b"}
    store.prepare()
    store.put("a", COLUMNS)
    store.put("b", COLUMNS)
    assert store.place.names() == {"a.parquet", "b.parquet"}, "nothing but the records is left"
    assert store.place.read("a.parquet") == CONTENT
    assert store.missing(["a", "b", "c"]) == {"c"}
    assert len(store.read(["a", "b", "c"])) == 12
    store.place.put("a.parquet", CONTENT[:-3])
    assert store.missing(["a", "b"]) == {"a"}
    assert [path.name for path in store.moved_aside] == ["a.damaged"]
    with pytest.raises(FileNotFoundError):
        store.place.read("a.parquet")


def test_a_put_that_is_not_atomic_is_moved_into_place(tmp_path: Path) -> None:
    Slow.puts.clear()
    Store(f"slow://{tmp_path.name}").put("key", COLUMNS)
    assert Slow.puts
    assert not any(path.endswith("key.parquet") for path in Slow.puts)


def test_file_urls_are_folders(tmp_path: Path) -> None:
    found = place(f"file://{tmp_path}/a%20b")
    assert isinstance(found, LocalStorage)
    assert found.folder == tmp_path / "a b"


def test_places_that_cannot_be_written_are_said() -> None:
    with pytest.raises(InputError, match=r"records forbidden://b: cannot write there \(Access Denied\)"):
        Store("forbidden://b").check()
    with pytest.raises(InputError, match=r"did you mean 's3'"):
        Store("s33://b")


def test_a_missing_driver_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(InputError, match=r"pip install 'robustatt\[s3\]'"):
        RemoteStorage("s3://bucket/records")


def test_no_permission_is_found_before_any_work(tmp_path: Path) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    plan = Plan((ModelEntry("vgg", "vgg"),), (recipes.load("fgsm"),), parse_grid("2"), n=4)
    with pytest.raises(InputError, match="cannot write there"):
        run(plan, load_data(plan), never, tmp_path / "out", execution=ExecutorOptions(records="forbidden://b/c"))
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_with_records_elsewhere_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"memory://{tmp_path.name}/records"
    command = ["sweep", "--model", "vgg", "--eps", "2", "-n", "8", "--out", str(tmp_path / "out"), "--records", url]
    assert cli.main(command) == 0
    assert not (tmp_path / "out" / "records").exists()
    assert len(place(url).names()) == 1
    assert cli.main(command) == 0
    assert "0 cells computed, 1 found on disk" in capsys.readouterr().out
    assert cli.main(["report", str(tmp_path / "out")]) == 0
