"""`result.plot`: the curves of a result on axes of one's own, to the number."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from tiny_models import TwoClassLinear, images, small_net

import robustatt
from robustatt.errors import InputError


@pytest.fixture(scope="module")
def result() -> robustatt.api.Result:
    model, batch = TwoClassLinear(), images(30)
    return robustatt.sweep(model, (batch, model(batch).argmax(1)), attacks=["fgsm", "pgd"], eps="2,4,8,16")


@pytest.mark.parametrize(("quantity", "column"), [("accuracy", "accuracy"), ("fooling", "fooling_rate")])
def test_the_curve_is_the_table(result: robustatt.api.Result, quantity: str, column: str) -> None:
    figure, mine = plt.subplots()
    axis = result.plot(quantity, ax=mine)
    assert axis is mine
    for line, attack in zip(axis.get_lines(), ("fgsm", "pgd"), strict=True):
        curve = result.curve(attack)
        assert np.allclose(line.get_xdata(), 255 * curve["eps_value"])
        assert np.allclose(line.get_ydata(), curve[column])
        assert attack in line.get_label()
    plt.close(figure)


def test_drift_has_a_curve_for_each_level_and_axes_of_its_own() -> None:
    net, batch = small_net(), images(20, 12)
    found = robustatt.sweep(net, (batch, net(batch).argmax(1)), attacks=["pgd"], eps="4,16")
    axis = found.plot("drift")
    rows = [
        row
        for row in found.summary["full_strength"]["drift"]
        if (row["attack"], row["metric"], row["group"]) == ("pgd", "js", "all") and row["eps"] != "0/255"
    ]
    (line,) = axis.get_lines()
    assert np.allclose(line.get_ydata(), [row["mean"] for row in rows])
    plt.close(axis.figure)


def test_what_cannot_be_drawn_is_one_line(result: robustatt.api.Result) -> None:
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        result.plot("accurcy")
