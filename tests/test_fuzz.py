"""Hostile and damaged input, by the thousand: one line of error at most, nothing run, nothing outside the folder touched.

ROBUSTATT_FUZZ says how many inputs in all: 500 unless said otherwise, the same ones each time; `make fuzz` tries 10,000 new ones.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from synthetic_records import make_gallery, make_plan, make_records

from robustatt import data, models
from robustatt.attack import recipe_files as recipe
from robustatt.eps import format_radius, parse_grid, parse_radius
from robustatt.errors import RobustattError
from robustatt.models import external
from robustatt.models.card import Card
from robustatt.models.checkpoint import save_checkpoint
from robustatt.plan import BoundPlan, Plan, read_plan
from robustatt.report import write_report
from robustatt.results.aggregate import summarise
from robustatt.results.gallery import GALLERY_FILE, read_gallery, write_gallery
from robustatt.results.gate import check
from robustatt.results.records import Store, encode
from robustatt.results.reference import make_reference, read_reference, write_reference
from robustatt.results.summary_file import read_summary, write_summary

TARGETS = 20
TOTAL = int(os.environ.get("ROBUSTATT_FUZZ", "500"))
FUZZ = settings(
    max_examples=-(-TOTAL // TARGETS),
    deadline=None,
    derandomize=TOTAL <= 500,
    suppress_health_check=list(HealthCheck),
    database=None,
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),  # of long inputs
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),  # of damaged metadata in images
]
HOME = Path(tempfile.mkdtemp(prefix="robustatt-fuzz-"))
CANARY = HOME / "outside" / "canary.txt"
CANARY.parent.mkdir()
CANARY.write_text("nobody reads this")

# What must not happen ---------------------------------------------------------------------------------------

_watched: list[Path] = []
_sins: list[str] = []
CODE = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class"}


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event in CODE:
        _sins.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[0], str | bytes):
        path, mode = os.path.realpath(os.fsdecode(arguments[0])), str(arguments[1] or "")
        writes = any(sign in mode for sign in "wax+") or bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        if path == str(CANARY) or (writes and not path.startswith((str(_watched[0]), "/dev/"))):
            _sins.append(f"{event} {path} {mode}")
    elif event in ("os.rename", "os.remove", "os.symlink"):
        ends = [os.fsdecode(end) for end in arguments[:2] if isinstance(end, str | bytes | os.PathLike)]
        _sins.extend(f"{event} {end}" for end in ends if not os.path.abspath(end).startswith(str(_watched[0])))


sys.addaudithook(_note)


@contextmanager
def hostile(folder: Path) -> Iterator[None]:
    """An error on purpose is fine; any other one, code that runs, a touch outside the folder, half a file are not."""
    _sins.clear()
    _watched.append(folder)
    try:
        yield
    except RobustattError as problem:
        assert "\n" not in str(problem), f"more than one line: {problem}"
    finally:
        _watched.clear()
    assert not _sins, _sins
    assert not list(folder.rglob("*.part"))


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> None:
    """Imports that come late, and caches, are none of the input's doing."""
    data.load("digits").tensors([0])


def place(name: str) -> Path:
    """A folder for one kind of input."""
    folder = HOME / name
    folder.mkdir(exist_ok=True)
    return folder


# Inputs -----------------------------------------------------------------------------------------------------

TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "../x", "/etc/passwd", "a\0b", "nan", "1e999", "8/0", "vgg", "pgd", "-1", "\ud7ff", "{{7*7}}"]),
    st.just(str(CANARY)),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.sampled_from([2**31, 2**63, -(2**64), 10**30]),
    st.floats(allow_nan=True), TEXT,
)  # fmt: skip
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8)


def mutated(original: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with a few places altered, cut out, doubled or put in, or cut short, or other bytes altogether."""
    at = st.integers(0, max(0, len(original) - 1))
    edit = st.tuples(st.sampled_from(["set", "cut", "double", "insert"]), at, st.binary(min_size=1, max_size=8))
    edited = st.lists(edit, min_size=1, max_size=6).map(lambda edits: _edit(original, edits))
    return st.one_of(edited, edited, at.map(lambda end: original[:end]), st.binary(max_size=64))


def _edit(original: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    content = bytearray(original)
    for kind, where, what in edits:
        if kind == "set":
            content[where : where + len(what)] = what
        elif kind == "cut":
            del content[where : where + 3 * len(what)]
        elif kind == "double":
            content[where:where] = content[where : where + 16]
        else:
            content[where:where] = what
    return bytes(content)


def grafted(document: Any) -> st.SearchStrategy[Any]:
    """The document with one or two of its values replaced by anything, or left out."""
    paths = list(_paths(document))
    graft = st.tuples(st.sampled_from(paths), TREES, st.booleans())
    return st.lists(graft, min_size=1, max_size=2).map(lambda grafts: _graft(document, grafts))


def _paths(document: Any, stem: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in items:
        yield (*stem, key)
        if not isinstance(document, list) or key < 3:
            yield from _paths(value, (*stem, key))


def _graft(document: Any, grafts: list[tuple[tuple[Any, ...], Any, bool]]) -> Any:
    changed = copy.deepcopy(document)
    for path, value, remove in grafts:
        target = changed
        try:
            for key in path[:-1]:
                target = target[key]
            if remove:
                del target[path[-1]]
            else:
                target[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    return changed


PLAN = {
    "data": "digits", "split": "test", "n": 8, "eps": "1..4", "seed": 3, "independent": False,
    "models": [{"name": "mine", "spec": "vgg", "weights": "w.safetensors"}, "vgg_att3"],
    "attacks": ["fgsm", {"name": "p", "algorithm": "pgd", "steps": 4, "step_size": 0.1, "norm": "l2"}],
}  # fmt: skip
RECIPES = [path.read_bytes() for path in recipe.shipped().values()]
RECORDS = make_records(models=("vgg", "vgg_att3"), attacks=("fgsm",), n=12, radii=2)
TYPED = summarise(RECORDS, make_plan(RECORDS), {"command": "c"}, [])
SUMMARY = json.loads(json.dumps(TYPED.as_dict()))
REFERENCE = make_reference(RECORDS, TYPED)


def toml(document: Any) -> bytes:
    """As TOML, or as JSON where TOML cannot say it."""
    try:
        return tomli_w.dumps(document).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError):
        return json.dumps(document).encode()


def dumped(document: Any) -> bytes:
    return json.dumps(document).encode()


# Targets ----------------------------------------------------------------------------------------------------

GRIDS = st.text("0123456789./,:- eE_x", max_size=24) | TEXT


@FUZZ
@given(GRIDS, st.sampled_from([Fraction(1, 255), Fraction(1)]))
def test_eps_grammar(text: str, unit: Fraction) -> None:
    with hostile(HOME):
        radii = parse_grid(text, unit)
        assert list(radii) == sorted(set(radii))
        assert all(parse_radius(format_radius(eps)) == eps > 0 for eps in radii)


@FUZZ
@given(GRIDS)
def test_radius(text: str) -> None:
    with hostile(HOME):
        parse_radius(text)


@FUZZ
@given(mutated(toml(PLAN)))
def test_plan_text(content: bytes) -> None:
    path = place("plan") / "plan.toml"
    path.write_bytes(content)
    with hostile(path.parent):
        Plan.from_toml(read_plan(path), where="plan")


@FUZZ
@given(grafted(PLAN))
def test_plan_structure(document: Any) -> None:
    with hostile(HOME):
        plan = Plan.from_toml(document, where="plan")
        again = Plan.from_toml(plan.to_toml(), where="again")
        assert again.eps == plan.eps
        assert again.models == plan.models


def bound_plan() -> dict[str, Any]:
    plan = BoundPlan(Plan.from_toml(PLAN, "plan"), 8, ("a", "b"), "d", ("m1", "m2"), "memory://records")
    plan.write(place("bound"))
    return read_plan(place("bound") / "plan.toml")


BOUND = bound_plan()


@FUZZ
@given(grafted(BOUND).map(toml) | mutated(toml(BOUND)))
def test_bound_plan(content: bytes) -> None:
    (place("bound") / "plan.toml").write_bytes(content)
    with hostile(place("bound")):
        bound = BoundPlan.read(place("bound"))
        assert isinstance(bound.records or "", str)
        if bound.examples < 10_000:
            assert all(len(cell.key) == 32 for cell in bound.cells())
            json.dumps(bound.describe())


@FUZZ
@given(st.sampled_from(RECIPES).flatmap(mutated))
def test_recipe_text(content: bytes) -> None:
    path = place("recipe") / "mine.toml"
    path.write_bytes(content)
    with hostile(path.parent):
        recipe.load(str(path))


@FUZZ
@given(st.sampled_from([recipe.load(name).model_dump(mode="json") for name in recipe.shipped()]).flatmap(grafted))
def test_recipe_structure(document: Any) -> None:
    with hostile(HOME):
        recipe.parse(document, where="recipe").fingerprint()


@FUZZ
@given(mutated(dumped(SUMMARY)) | grafted(SUMMARY).map(dumped))
def test_summary(content: bytes) -> None:
    path = place("summary") / "summary.json"
    path.write_bytes(content)
    with hostile(path.parent):
        write_summary(place("summary"), read_summary(path))


@settings(FUZZ, max_examples=max(2, TOTAL // TARGETS // 10))
@given(grafted(SUMMARY))
def test_report_of_a_summary(document: Any) -> None:
    """What `read_summary` lets pass, the page can show."""
    folder = place("report")
    (folder / "summary.json").write_bytes(dumped(document))
    with hostile(folder):
        write_report(folder, RECORDS, read_summary(folder), figures=False)


def reference_document() -> Any:
    return json.loads(write_reference(place("reference") / "r.json", REFERENCE).read_text())


@FUZZ
@given(mutated(dumped(reference_document())) | grafted(reference_document()).map(dumped))
def test_reference(content: bytes) -> None:
    path = place("reference") / "r.json"
    path.write_bytes(content)
    with hostile(path.parent):
        found = check(RECORDS, TYPED, read_reference(path))
        assert found.exit_code in (0, 1, 2)
        assert found.headline


CELL = encode({name: RECORDS[name].to_numpy() for name in RECORDS.columns if not str(name).startswith("drift")})


@FUZZ
@given(mutated(CELL))
def test_records(content: bytes) -> None:
    folder = place("records")
    (folder / "a.parquet").write_bytes(content)
    with hostile(folder):
        found = Store(folder).read(["a"])
        assert len(found) == (len(RECORDS) if content == CELL else 0)


@FUZZ
@given(st.dictionaries(st.sampled_from(["model", "eps", "index", "label", "x"]) | TEXT, TREES, max_size=4))
def test_records_with_a_right_checksum_and_wrong_columns(columns: dict[str, Any]) -> None:
    """Whoever writes a checksum too can write any Parquet file: it must still be read as data, or refused."""
    try:
        content = encode({name: [value] for name, value in columns.items()})
    except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError):
        return
    folder = place("columns")
    (folder / "a.parquet").write_bytes(content)
    with hostile(folder):
        summarise(Store(folder).read(["a"]), {}, {}, [])


NETWORK = models.build("vgg_att1", width=0.02)
CARD = Card(name="vgg_att1", width=0.02, classes=10, mean=(0, 0, 0), std=(1, 1, 1), data="digits")


def checkpoint() -> bytes:
    path = place("checkpoint") / "w.safetensors"
    save_checkpoint(path, NETWORK.state_dict(), CARD)
    return path.read_bytes()


WEIGHTS = checkpoint()
HEADER = int.from_bytes(WEIGHTS[:8], "little") + 8


@FUZZ
@given(mutated(WEIGHTS[: HEADER + 64]).map(lambda head: head + WEIGHTS[HEADER + 64 :]) | mutated(WEIGHTS))
def test_checkpoint_bytes(content: bytes) -> None:
    path = place("checkpoint") / "w.safetensors"
    path.write_bytes(content)
    with hostile(path.parent):
        models.load_checkpoint(path)


@FUZZ
@given(grafted(json.loads(CARD.model_dump_json())))
def test_card(card: Any) -> None:
    path = place("checkpoint") / "c.safetensors"
    path.write_bytes(save({"x": torch.zeros(1)}, metadata={"card": json.dumps(card)}))
    with hostile(path.parent):
        models.load_checkpoint(path)


class Exploit:
    """Runs a command where it is unpickled by a reader that trusts it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {HOME / 'owned'}",)


def torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


PICKLES = [torch_file({"w": torch.zeros(2, 3)}), torch_file({"w": Exploit()}), pickle.dumps({"w": Exploit()})]


@FUZZ
@given(st.sampled_from(PICKLES) | st.sampled_from(PICKLES).flatmap(mutated))
def test_pickled_weights(content: bytes) -> None:
    path = place("pickle") / "w.pt"
    path.write_bytes(content)
    with hostile(path.parent):
        external.read_weights(path)
    assert not (HOME / "owned").exists()


@FUZZ
@given(grafted({"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
def test_weights_in_shards(index: Any) -> None:
    folder = place("shards")
    (folder / "model.safetensors.index.json").write_bytes(dumped(index))
    with hostile(folder):
        external.read_weights(folder)


def picture(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


PICTURES = [picture(form) for form in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")]


@FUZZ
@given(st.sampled_from(PICTURES).flatmap(mutated))
def test_image_files(content: bytes) -> None:
    folder = place("images")
    (folder / "cat").mkdir(exist_ok=True)
    (folder / "cat" / "1.png").write_bytes(content)
    with hostile(folder):
        data.load(str(folder), image_size=8).tensors([0])


def arrays(**contents: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **contents)
    return buffer.getvalue()


ARRAYS = [
    arrays(images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.array([0, 1])),
    arrays(images=np.array([Exploit()], dtype=object), labels=np.array([0])),
]


@FUZZ
@given(st.sampled_from(ARRAYS) | st.sampled_from(ARRAYS).flatmap(mutated))
def test_npz(content: bytes) -> None:
    path = place("npz") / "d.npz"
    path.write_bytes(content)
    with hostile(path.parent):
        data.load(str(path)).tensors([0])
    assert not (HOME / "owned").exists()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [PICTURES[0]] * 3, "label": [0, 1, 1]}), buffer)
    return buffer.getvalue()


@FUZZ
@given(mutated(parquet()))
def test_parquet_data(content: bytes) -> None:
    folder = place("parquet")
    (folder / "test-0.parquet").write_bytes(content)
    with hostile(folder):
        data.load(str(folder), image_size=8).tensors([0])


def gallery() -> bytes:
    entries = make_gallery(RECORDS, "vgg_att3", "fgsm", [1, 2])
    return write_gallery(place("gallery"), entries).read_bytes()


@FUZZ
@given(mutated(gallery()))
def test_gallery(content: bytes) -> None:
    folder = place("gallery")
    (folder / GALLERY_FILE).write_bytes(content)
    with hostile(folder):
        read_gallery(folder)


def test_a_link_among_the_records_is_not_followed(tmp_path: Path) -> None:
    """Neither to read what lies elsewhere, be it a whole file of records, nor to write there."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run" / "records"
    elsewhere.mkdir()
    folder.mkdir(parents=True)
    (elsewhere / "b.parquet").write_bytes(CELL)
    for key, target in (("a", CANARY), ("b", elsewhere / "b.parquet"), ("c", elsewhere / "new.parquet")):
        (folder / f"{key}.parquet").symlink_to(target)
    with hostile(folder):
        store = Store(folder)
        assert store.read(["a", "b", "c"]).empty
        for key in "abc":
            store.put(key, {name: RECORDS[name].to_numpy() for name in RECORDS.columns})
        assert len(store.read(["a", "b", "c"])) == 3 * len(RECORDS)
    assert CANARY.read_text() == "nobody reads this"
    assert (elsewhere / "b.parquet").read_bytes() == CELL
    assert not (elsewhere / "new.parquet").exists()


EVIL = [
    "../../up",
    "/absolute",
    "a/../../b",
    "..",
    "a\\b",
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
]


class Elements(HTMLParser):
    """Counts the elements of a page by tag and names of attributes: text that became markup shows as one more."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[" ".join([tag, *sorted(name for name, _ in attrs)])] += 1
        acts = [value for name, value in attrs if name in ("src", "href", "srcdoc", "action", "style") and value]
        self.counts["acts"] += sum("alert" in value or "javascript:" in value for value in acts)


@pytest.mark.parametrize("evil", EVIL)
def test_names_of_models_attacks_and_classes_are_only_text(evil: str, tmp_path: Path) -> None:
    """A page with such names has the elements of one without, and every file lies in the folder."""
    pages = []
    for name in (evil, "good"):
        records = RECORDS.replace({"model": {"vgg_att3": name}, "attack": {"fgsm": name}})
        plan = make_plan(records)
        plan["data"] |= {"name": name, "classes": [f"{name}{place}" for place in range(10)]}
        doubt = {"code": name, "message": name, "model": name, "attack": name}
        summary = summarise(records, plan, {"command": name, "versions": {name: name}}, [doubt])
        folder = tmp_path / str(len(pages))
        folder.mkdir()
        with hostile(folder):
            pages.append(write_report(folder, records, summary, figures=False).html.read_text())
    assert Elements(pages[0]).counts == Elements(pages[1]).counts
    assert not [path for path in tmp_path.rglob("*") if path.relative_to(tmp_path).parts[0] not in ("0", "1")]


def test_the_count_of_elements_sees_markup() -> None:
    plain = Elements("<p>&lt;script&gt;x</p>").counts
    assert plain == Elements("<p>name</p>").counts
    assert plain != Elements("<p><script>x</script></p>").counts
    assert plain != Elements("<p onclick='x'>name</p>").counts
    assert Elements("<a href='javascript:alert(1)'>x</a>").counts["acts"] == 1


def test_the_number_of_targets_is_right() -> None:
    """So that the inputs add up to what is promised."""
    named = [name for name, thing in globals().items() if hasattr(thing, "hypothesis")]
    assert len(named) == TARGETS


def test_the_watch_sees_what_it_should() -> None:
    """Code that runs, a file that is read or written outside, half a file: each is noticed."""
    folder = place("watch")

    def half() -> None:
        (folder / ".x.part").write_text("")

    for sin in (
        lambda: CANARY.read_text(), lambda: (HOME / "elsewhere").write_text(""), lambda: os.system("true"),
        lambda: pickle.loads(pickle.dumps(Exploit())), half,
    ):  # fmt: skip
        with pytest.raises(AssertionError), hostile(folder):
            sin()
    (folder / ".x.part").unlink()
    (HOME / "owned").unlink()
