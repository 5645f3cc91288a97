"""One Cell and its records: which examples, which images the model sees, how each kind of attack is run, and every column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Linear, exact_distance, images, linear_data, small_net
from torch import nn

from robustatt.attack import recipe_files
from robustatt.attack.recipe import Recipe
from robustatt.data.dataset import TensorDataset
from robustatt.data.views import Sample, stratified
from robustatt.errors import InputError
from robustatt.evaluate.cell import Evaluation, as_float, attack_examples, evaluate, load_images, positions_of
from robustatt.evaluate.classifier import frozen
from robustatt.evaluate.full_strength import evaluate_along_direction, evaluate_at_full_strength
from robustatt.evaluate.kept_rows import KeptRows
from robustatt.evaluate.single_run import evaluate_minimum_norm
from robustatt.plan import Cell
from robustatt.plan.drift_sample import DriftSample

CPU = torch.device("cpu")
MODEL = Linear(3)
IMAGES, LABELS = linear_data(MODEL, 20)
#: images 20 to 39 of a set of 40, by their places 0 to 19 in the sample
DATA = Sample(TensorDataset(torch.cat([IMAGES.flip(0), IMAGES]), torch.cat([LABELS.flip(0), LABELS])), torch.arange(20, 40))
COLUMNS = [
    "model",
    "attack",
    "eps",
    "index",
    "label",
    "clean_pred",
    "adv_pred",
    "clean_margin",
    "adv_margin",
    "distance",
    "attacked",
    "zero_grad",
]


def recipe(name: str, **changes: Any) -> Recipe:
    return recipe_files.load(name).model_copy(update=changes)


def cell(attack: Recipe, radii: tuple[str, ...] = ("0.25/255", "2/255"), **changes: Any) -> Cell:
    return replace(Cell("mine", "", "", attack, radii, 4, 14, 3, False), **changes)


def evaluated(asked: Cell, model: nn.Module = MODEL, batch_size: int = 4) -> tuple[Evaluation, list[int]]:
    done: list[int] = []
    with frozen(model, "mine", CPU, IMAGES[:4]) as classifier:
        return evaluate(asked, [classifier], DATA, batch_size, done.append), done


def test_records_are_those_of_the_linear_model() -> None:
    """Ten examples, clean and at two radii: the margin falls by the radius times the weights' difference, in FGSM's one step."""
    found, done = evaluated(cell(recipe("fgsm")))
    columns = found.columns
    assert list(columns) == COLUMNS
    assert list(columns["model"]) == ["mine"] * 30
    assert list(columns["attack"]) == ["fgsm"] * 30
    assert list(columns["eps"]) == ["0/255"] * 10 + ["0.25/255"] * 10 + ["2/255"] * 10
    assert np.asarray(columns["eps"]).dtype == object, "texts as they are, of any length"
    assert list(columns["index"]) == 3 * list(range(24, 34))
    image, label = IMAGES[4:14], LABELS[4:14]
    assert list(columns["label"]) == 3 * label.tolist()
    with torch.no_grad():
        logits = MODEL(image)
    rivals = logits.scatter(1, label[:, None], -torch.inf)
    margin = (logits.gather(1, label[:, None])[:, 0] - rivals.amax(1)).numpy()
    assert list(columns["clean_pred"]) == 3 * logits.argmax(1).tolist()
    for at in range(3):
        assert np.asarray(columns["clean_margin"])[10 * at : 10 * at + 10] == pytest.approx(margin, abs=1e-5)
    assert list(columns["adv_pred"])[:10] == logits.argmax(1).tolist()
    assert np.asarray(columns["adv_margin"])[:10] == pytest.approx(margin, abs=1e-5)
    broken = np.stack([exact_distance(MODEL, image, label, "linf").numpy() < eps / 255 for eps in (0.25, 2)])
    wrong = np.asarray(columns["adv_pred"]).reshape(3, 10)[1:] != label.numpy()
    assert wrong[1].any()
    assert (wrong <= broken).all(), "nothing breaks nearer than the boundary"
    assert np.asarray(columns["distance"]).reshape(3, 10) == pytest.approx(
        np.repeat([[0.0], [0.25 / 255], [2 / 255]], 10, axis=1), rel=1e-4
    )
    assert np.asarray(columns["attacked"]).reshape(3, 10).tolist() == [[False] * 10, [True] * 10, [True] * 10]
    assert not np.asarray(columns["zero_grad"]).any()
    assert done == [4, 4, 2]
    assert (found.gradients, found.forwards) == (10, 30)


def test_rows_that_are_not_moved_have_the_drift_of_a_map_with_itself() -> None:
    data = TensorDataset(images(6), torch.zeros(6, dtype=torch.int64))
    with frozen(small_net(), "mine", CPU, images(4)) as classifier:
        found = evaluate(cell(recipe("fgsm"), start=0, stop=6), [classifier], data, 4).columns
    assert list(found) == [*COLUMNS, *(f"drift_{metric}_gradcam" for metric in ("js", "cosine", "shift", "iou", "entropy"))]
    unmoved = {"js": 0.0, "cosine": 1.0, "shift": 0.0, "iou": 1.0, "entropy": 0.0}
    for metric, value in unmoved.items():
        column = np.asarray(found[f"drift_{metric}_gradcam"])
        assert column.dtype == np.float32
        assert (column[:6] == value).all()
        assert (column[6:] != value).any()


def test_a_chain_says_nothing_of_clean_images_and_what_broke_the_others() -> None:
    found = evaluated(cell(recipe("autoattack", steps=4, targets=1, queries=3)))[0].columns
    assert list(found) == [*COLUMNS, "broken_by"]
    assert list(found["broken_by"])[:10] == [""] * 10
    right = np.asarray(found["clean_pred"]) == np.asarray(found["label"])
    wrong = np.asarray(found["adv_pred"]) != np.asarray(found["label"])
    assert set(np.asarray(found["broken_by"])[right & wrong]) <= {"apgd-ce", "apgd-t", "fab-t", "square"}
    assert "" not in set(np.asarray(found["broken_by"])[right & wrong])


def test_without_radii_there_are_clean_rows_alone() -> None:
    found, done = evaluated(cell(recipe("pgd"), ()))
    assert list(found.columns["eps"]) == ["0/255"] * 10
    assert done == [10]
    assert (found.gradients, found.forwards) == (0, 10)


class Ways:
    """Which ways of running an attack were taken, in place of the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[str] = []
        for way in (evaluate_along_direction, evaluate_minimum_norm, evaluate_at_full_strength):
            monkeypatch.setattr(f"robustatt.evaluate.cell.{way.__name__}", self._noted(way))

    def _noted(self, way: Any) -> Any:
        def run(*arguments: Any) -> Any:
            self.taken.append(way.__name__)
            return way(*arguments)

        return run


DRIFT = DriftSample(12, 16)


@pytest.mark.parametrize(("asked", "way"), [
    (cell(recipe("fgsm")), ["evaluate_along_direction"]),
    (cell(recipe("noise")), ["evaluate_along_direction"]),
    (cell(recipe("fmn", steps=3)), ["evaluate_minimum_norm"]),
    (cell(recipe("pgd", steps=2)), []),
    (cell(recipe("pgd", steps=2), drift=DRIFT, stop=12), ["evaluate_at_full_strength"]),
    (cell(recipe("pgd", steps=2), independent=True), []),
], ids=["single step", "control", "minimum norm", "search", "full strength", "independent"])  # fmt: skip
def test_each_kind_of_attack_is_run_in_its_way(asked: Cell, way: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways(monkeypatch)
    found, done = evaluated(asked)
    assert ways.taken == way
    assert sum(done) == asked.stop - asked.start
    assert len(found.columns["index"]) == 3 * (asked.stop - asked.start)
    if asked.independent:
        right = np.asarray(found.columns["clean_pred"])[10:] == np.asarray(found.columns["label"])[10:]
        assert (np.asarray(found.columns["attacked"])[10:] == right).all(), "each radius afresh"


def test_noise_belongs_to_seed_attack_and_example() -> None:
    """Not to the batch, nor to the place among the examples."""

    def margins(**changes: Any) -> np.ndarray:
        attack = changes.pop("attack", "noise")
        asked = cell(recipe("noise").model_copy(update={"name": attack}), ("16/255",), **{"start": 6, "stop": 8, **changes})
        found, _ = evaluated(asked, batch_size=3)
        return np.asarray(found.columns["adv_margin"])[-2:]

    assert np.array_equal(margins(), margins(start=2))
    assert not np.allclose(margins(), margins(seed=4))
    assert not np.allclose(margins(), margins(attack="other"))
    pgd = recipe("pgd", steps=2, restarts=1)
    own = pgd.model_copy(update={"name": "own"})
    starts = [
        evaluated(cell(attack, ("1/255",), seed=seed))[0].columns["adv_margin"]
        for attack, seed in ((pgd, 3), (pgd, 3), (pgd, 4), (own, 3))
    ]
    assert np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])
    assert not np.array_equal(starts[0], starts[3])


def test_targets_are_drawn_and_reached() -> None:
    """Random targets depend on the seed; an attack on them counts what reaches them."""
    chosen = []
    with frozen(MODEL, "mine", CPU, IMAGES[:4]) as classifier:
        for seed in (3, 4):
            asked = cell(recipe("pgd", steps=2, targeted="random"), seed=seed)
            target, _, _ = attack_examples(asked, classifier, DATA, positions_of(asked, DATA), 4)
            chosen.append(target.target_class)
            assert (target.target_class != LABELS[4:14]).all()
            assert (target.target_class >= 0).all()
    assert not torch.equal(*chosen)


def test_images_and_maps_are_kept_on_request() -> None:
    with frozen(MODEL, "mine", CPU, IMAGES[:4]) as classifier:
        asked = cell(recipe("fgsm"))
        for kept in (None, KeptRows(2, [0, 1])):
            target, ledger, oracle = attack_examples(asked, classifier, DATA, [5, 9], 4, kept=kept)
            for example, radius in ((0, 0), (1, 1)) if kept else ():
                moved = (torch.from_numpy(kept[example, radius]["image"]) - target.image[example]).abs().max()
                assert moved == pytest.approx(ledger.columns["distance"][example, radius], abs=1e-7)
            assert target.index.tolist() == [25, 29]
            assert target.radii.tolist() == pytest.approx([0.25 / 255, 2 / 255])
            assert oracle.gradients == 2
            assert torch.equal(target.image, IMAGES[[5, 9]])
        attack_examples(cell(recipe("pgd"), ()), classifier, DATA, [5, 9], 4)


def test_a_drift_sample_is_drawn_from_its_population() -> None:
    assert positions_of(cell(recipe("pgd")), DATA) == range(4, 14)
    drawn = stratified(DATA.labels[:16], 12, 3).tolist()
    assert positions_of(cell(recipe("pgd"), drift=DRIFT, stop=9), DATA) == drawn[4:9]
    assert drawn != list(range(12))


# Images and labels -----------------------------------------------------------------------------------------


def test_images_are_floats_in_0_to_1() -> None:
    whole = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert as_float(whole).tolist() == pytest.approx(np.array([[0.0, 0.2, 1.0]]))
    assert as_float(whole).dtype == torch.float32
    for dtype in (torch.float16, torch.float64):
        found = as_float(torch.tensor([0.25, 0.5], dtype=dtype))
        assert (found.dtype, found.tolist()) == (torch.float32, [0.25, 0.5])
    usual = torch.tensor([0.5])
    assert as_float(usual) is usual, "nothing is copied"
    with torch.inference_mode():
        inside = torch.tensor([0.5])
    assert not as_float(inside).is_inference()


def dataset(labels: list[int], classes: list[str] | None = None) -> TensorDataset:
    return TensorDataset(IMAGES[: len(labels)], torch.tensor(labels), classes)


def test_labels_are_outputs_of_the_model() -> None:
    """Labels of mere numbers may be fewer than the model's classes, and never more; named ones must be as many."""
    with frozen(MODEL, "mine", CPU, IMAGES[:4]) as classifier:
        found, labels = load_images(dataset([0, 2, 1]), [2, 0], classifier)
        assert torch.equal(found, IMAGES[[2, 0]])
        assert labels.tolist() == [1, 0]
        beyond = r"^model 'mine' has 3 classes, but the data has label 3: give weights trained for these classes$"
        with pytest.raises(InputError, match=beyond):
            load_images(dataset([0, 3, 1]), [0, 1], classifier)
        load_images(dataset([0, 3, 1]), [0, 2], classifier)
        with pytest.raises(InputError, match=r"^model 'mine' has 3 outputs, and tensors 2 classes \(cat, dog\)"):
            load_images(dataset([0, 1], ["cat", "dog"]), [0], classifier)
