"""The frozen classifier: what it says of a model, when it asks the original, and which copies it makes fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Linear, images, small_net
from torch import Tensor, nn

from robustatt.attack.border import MARGIN
from robustatt.errors import InputError, NonFiniteLogits
from robustatt.evaluate.classifier import SAFETY, Numerics, frozen, require_finite, top2_margin
from robustatt.evaluate.gradcam import grad_cam

CPU = torch.device("cpu")
SCREEN = Numerics("bf16-screen")


class Network(nn.Module):
    """A network of one function, which is told how often it was asked, and in what."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function, self.bias = function, nn.Parameter(torch.zeros(()))
        self.asked: list[tuple[int, bool, torch.dtype]] = []

    def forward(self, x: Tensor) -> Any:
        self.asked.append((len(x), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return self.function(x)


def first_pixels(x: Tensor) -> Tensor:
    """Logits that are three of the pixels."""
    return x.flatten(1)[:, :3]


def labels(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


# What is said of a model -----------------------------------------------------------------------------------


def test_a_classifier_says_what_it_is_of() -> None:
    with frozen(small_net(), "mine", CPU, images(4)) as found:
        assert (found.label, found.device, found.classes, found.dtype) == ("mine", CPU, 5, torch.float32)
        assert (found.attended, found.levels, found.box_margin, found.screen) == ((), ("gradcam",), 0.0, None)
    with frozen(nn.Sequential(nn.Hardtanh(0.0, 1.0), small_net()), "mine", CPU, images(4)) as found:
        assert found.box_margin == MARGIN, "its gradients end at the border of the box"
    with frozen(Linear(3), "mine", CPU, images(4, 6)) as found:
        assert found.levels == (), "no layer has positions"


def test_predictions_margins_and_maps_are_those_of_the_model() -> None:
    net, image = small_net(), images(6)
    label = torch.tensor([0, 1, 2, 3, 4, 0])
    with torch.no_grad():
        logits = net(image).double().numpy()
    others = np.where(np.arange(5) == label.numpy()[:, None], -np.inf, logits).max(1)
    with frozen(net, "mine", CPU, image) as classifier:
        found = classifier.predict(image, label, torch.arange(6))
    assert found.prediction.tolist() == logits.argmax(1).tolist()
    assert found.margin.numpy() == pytest.approx(logits[np.arange(6), label] - others, abs=1e-4)
    torch.testing.assert_close(found.maps, [grad_cam(net, image)], atol=1e-4, rtol=1e-3)
    with frozen(Linear(3), "mine", CPU, images(4, 6)) as classifier:
        assert classifier.predict(images(2, 6), labels(2), torch.arange(2)).maps == []


class Looking(Network):
    """Looks at the brightest pixels of the first channel, or the darkest."""

    levels = ("bright", "dark")

    def attend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self(x), [torch.where(x[:, 0] > 0.9, torch.nan, x[:, 0]), 1 - x[:, 0]]


def test_maps_that_are_none_name_the_example() -> None:
    image = images(3)
    with frozen(Looking(first_pixels), "mine", CPU, image) as classifier:
        assert classifier.levels == ("bright", "dark")
        bad = image.clone()
        bad[1, 0, 2, 2] = 1.0
        with pytest.raises(InputError, match=r"model 'mine': its map of level bright holds NaN .*\(example 17\)"):
            classifier.predict(bad, labels(3), torch.tensor([12, 17, 19]))


class Encoder(nn.Module):
    """A transformer of one block of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(self.cut(x).flatten(2).transpose(1, 2)).mean(1))
        return logits


def test_what_is_read_is_what_was_asked_for() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, image = Encoder().eval(), images(3, 16)
    seen = {}
    for heads in ("mean", "max", 0, 1):
        with frozen(net, "mine", CPU, image, heads=heads) as classifier:
            assert len(classifier.levels) == 1
            seen[heads] = classifier.predict(image, labels(3), torch.arange(3)).maps[0]
    torch.testing.assert_close(seen["mean"], (seen[0] + seen[1]) / 2)
    assert len({tuple(level.flatten().tolist()) for level in seen.values()}) == 4
    with frozen(net, "mine", CPU, image) as classifier:
        assert torch.equal(classifier.predict(image, labels(3), torch.arange(3)).maps[0], seen["mean"])
    with frozen(net, "mine", CPU, image, attention="none") as classifier:
        assert classifier.attended == ()
    with frozen(net, "mine", CPU, image, heads=2) as classifier, pytest.raises(InputError, match=r"model 'mine': .* no head 2"):
        classifier.attend(image)


def test_mistakes_of_a_model_name_it() -> None:
    with pytest.raises(InputError, match=r"^model 'mine' returned shape"), frozen(Network(lambda x: x), "mine", CPU, images(2)):
        pass

    def bears_no_gradient(x: Tensor) -> Tensor:
        if x.requires_grad:
            raise KeyError("gradient")
        return first_pixels(x)

    with (
        pytest.raises(InputError, match=r"^model 'mine' raised KeyError: 'gradient'$"),
        frozen(Network(bears_no_gradient), "mine", CPU, images(3)),
    ):
        pass


def test_numbers_that_are_none_name_the_examples() -> None:
    logits = torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [0.0, 0.0], [torch.inf, 1.0], [0.0, -torch.inf]])
    require_finite(logits[[0, 2]], torch.tensor([5, 6]), "mine")
    index = torch.tensor([10, 11, 12, 13, 14])
    with pytest.raises(NonFiniteLogits) as all_wrong:
        require_finite(logits, index, "mine")
    assert str(all_wrong.value) == (
        "model 'mine' returned NaN or infinite logits for example 11 and 2 more of this batch: "
        "its robustness cannot be measured until that is fixed"
    )
    with pytest.raises(NonFiniteLogits, match="logits for example 11: its"):
        require_finite(logits[:3], index[:3], "mine")
    with pytest.raises(NonFiniteLogits, match="example 11 and 1 more"):
        require_finite(logits[:4], index[:4], "mine")
    broken = Network(lambda x: torch.where(x.flatten(1)[:, :1] > 0.9, torch.nan, first_pixels(x)))
    with frozen(broken, "mine", CPU, images(2)) as classifier, pytest.raises(NonFiniteLogits, match=r"model 'mine' .* example 7"):
        classifier.predict(torch.ones(1, 3, 8, 8), labels(1), torch.tensor([7]))


def test_the_lead_of_the_first_class() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.5], [2.0, 2.0, -1.0]])
    assert top2_margin(logits).tolist() == [1.5, 0.0]
    assert top2_margin(logits[:, :2]).tolist() == [4.0, 0.0]


# When the original is asked --------------------------------------------------------------------------------

LEADS = torch.tensor([[0.5, 0.25, 0.0], [0.5, 0.375, 0.0], [0.25, 0.5, 0.0]])  # by 1/4, 1/8 and 1/4


def by_leads() -> Tensor:
    """Images whose `first_pixels` are `LEADS`."""
    image = torch.zeros(3, 3, 8, 8)
    image[:, 0, 0, :3] = LEADS
    return image


def test_leads_up_to_the_tolerance_are_decided_by_the_original() -> None:
    with frozen(Network(first_pixels), "mine", CPU, by_leads()) as classifier:
        assert classifier.fast is not classifier.original
        assert classifier.tolerance == SAFETY * classifier.rounding
        asked: list[Any] = classifier.original.asked  # type: ignore[assignment]
        for tolerance, rows in ((0.0, []), (0.1, []), (0.125, [1]), (0.2, [1]), (0.25, [3]), (9.0, [3])):
            classifier.rounding = tolerance / SAFETY
            asked.clear()
            found = classifier.predict(by_leads(), torch.tensor([0, 0, 0]), torch.arange(3))
            assert [count for count, *_ in asked] == rows, "nor is it asked about no image at all"
            assert found.margin.tolist() == [0.25, 0.125, -0.25]


def test_the_margin_is_of_the_logits_that_decide() -> None:
    with frozen(Network(first_pixels), "mine", CPU, by_leads()) as classifier:
        classifier.rounding = 0.125 / SAFETY
        classifier.original.function = lambda x: first_pixels(x).flip(1)
        found = classifier.predict(by_leads(), torch.tensor([0, 0, 0]), torch.arange(3))
    assert found.prediction.tolist() == [0, 2, 1]
    assert found.margin.tolist() == [0.25, -0.5, -0.25]
    assert found.logits.tolist() == [[0.5, 0.25, 0.0], [0.0, 0.375, 0.5], [0.25, 0.5, 0.0]]


def test_the_screen_asks_again_for_leads_up_to_its_error() -> None:
    """The model is in bfloat16 whatever the caller's own autocast would be."""
    before = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    try:
        with frozen(Network(first_pixels), "mine", CPU, by_leads(), SCREEN) as classifier:
            asked: list[Any] = classifier.fast.asked  # type: ignore[assignment]
            assert {dtype for _, screened, dtype in asked if screened} == {torch.bfloat16}
            classifier.screen, classifier.rounding = 0.125 / SAFETY, 0.0
            asked.clear()
            classifier.predict(by_leads(), labels(3), torch.arange(3))
    finally:
        torch.set_autocast_dtype("cpu", before)
    assert [(count, screened) for count, screened, _ in asked] == [(3, True), (1, False)]
    assert asked[0][2] == torch.bfloat16


def test_no_screen_where_bfloat16_says_nothing() -> None:
    def only_float32(x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("float32 is needed")
        return first_pixels(x)

    for function in (only_float32, lambda x: first_pixels(x) * torch.nan):
        with frozen(Network(function), "mine", CPU, by_leads(), SCREEN) as classifier:
            assert classifier.screen is None
    with frozen(Network(lambda x: first_pixels(x.half()).float()).half(), "mine", CPU, by_leads(), SCREEN) as classifier:
        assert classifier.screen is None, "coarser than float32 already"


def test_compiled_passes_are_those_of_the_fast_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, called = [], []

    def fake(function: Callable[[Tensor], Any], *, dynamic: bool) -> Callable[[Tensor], Any]:
        assert dynamic, "one compilation for every batch size"
        compiled.append(function)

        def run(x: Tensor) -> Any:
            called.append(function)
            return function(x)

        return run

    monkeypatch.setattr(torch, "compile", fake)
    with frozen(Network(first_pixels), "mine", CPU, by_leads(), Numerics(compiled=True)) as classifier:
        assert compiled == called == [classifier.fast], "and it is tried at once"
        assert torch.equal(classifier.logits(by_leads()), LEADS)
        assert len(called) == 2
    compiled.clear(), called.clear()
    with frozen(Looking(first_pixels), "mine", CPU, by_leads(), Numerics(compiled=True)) as classifier:
        assert compiled == [classifier.fast, classifier.fast.attend]
        assert called == [classifier.fast.attend]
        classifier.attend(by_leads())
        assert len(called) == 2


def test_a_model_that_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_function: Any, **_: Any) -> Callable[[Tensor], Any]:
        def run(_x: Tensor) -> Any:
            raise torch._dynamo.exc.TorchDynamoException("no graph\nof this")

        return run

    monkeypatch.setattr(torch, "compile", refuse)
    with (
        pytest.raises(InputError, match=r"^--compile: model 'mine' cannot be compiled here \(no graph\): leave it out$"),
        frozen(Network(first_pixels), "mine", CPU, by_leads(), Numerics(compiled=True)),
    ):
        pass


# What is asked before it is needed ------------------------------------------------------------------------------


def test_what_was_looked_at_ahead_is_handed_out_once_and_to_the_bit() -> None:
    net, image, label, index = Network(first_pixels), images(10), labels(10), torch.arange(10)
    with frozen(net, "mine", CPU, image[:4]) as classifier:
        network = classifier.fast
        assert isinstance(network, Network)
        usual = classifier.predict_all(image, label, index, 4)
        ahead = classifier.look_ahead(image, label, index, 4)
        network.asked.clear()
        assert classifier.predict_all(image.clone(), label, index, 4) is ahead
        assert not network.asked
        again = classifier.predict_all(image, label, index, 4)
        assert [size for size, *_ in network.asked] == [4, 4, 2]
    assert torch.equal(usual.logits, ahead.logits)
    assert torch.equal(usual.margin, again.margin)


@pytest.mark.parametrize("change", ["image", "label", "index", "batch", "maps"])
def test_another_question_is_asked_afresh(change: str) -> None:
    net, image, label, index = Network(first_pixels), images(10), labels(10), torch.arange(10)
    with frozen(net, "mine", CPU, image[:4]) as classifier:
        network = classifier.fast
        assert isinstance(network, Network)
        classifier.look_ahead(image, label, index, 4)
        network.asked.clear()
        other = {"image": image + 1e-3, "label": label + 1, "index": index + 1}.get(change)
        asked = {"image": image, "label": label, "index": index} | ({} if other is None else {change: other})
        classifier.predict_all(**asked, batch_size=5 if change == "batch" else 4, maps=change != "maps")
        assert network.asked


def test_where_chance_comes_in_every_prediction_is_a_pass_of_its_own() -> None:
    net = Network(lambda x: first_pixels(x) + 0.0 * torch.rand(()))
    image, label, index = images(10), labels(10), torch.arange(10)
    with frozen(net, "mine", CPU, image[:4]) as classifier:
        network = classifier.fast
        assert isinstance(network, Network)
        classifier.look_ahead(image, label, index, 4)
        network.asked.clear()
        classifier.predict_all(image, label, index, 4)
        assert [size for size, *_ in network.asked] == [4, 4, 2]
