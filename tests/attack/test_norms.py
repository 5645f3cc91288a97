"""Properties of balls, boxes and starts, on arbitrary images, radii and perturbations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from robustatt.attack.base import Batch
from robustatt.attack.fab import nearest
from robustatt.attack.norms import NORMS, inside_box, measure, per_row, project
from robustatt.attack.rng import ExampleRng, counter_uniform
from robustatt.errors import ThreatModelViolation

SHAPE = (3, 2, 4, 5)
names = st.sampled_from(sorted(NORMS))
unit = st.floats(0, 1, width=32)
#: corners of the box come up often
pixels = arrays(np.float32, SHAPE, elements=st.one_of(st.sampled_from([0.0, 1.0]), unit)).map(torch.from_numpy)
changes = arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32)).map(torch.from_numpy)
radii = arrays(np.float32, SHAPE[0], elements=st.one_of(st.sampled_from([0.0, 1.0, 8.0]), unit)).map(torch.from_numpy)
quick = settings(max_examples=60, deadline=None)


def rows_of(image: Tensor, eps: Tensor, index: list[int] | None = None) -> Batch:
    n = len(image)
    zero = torch.zeros(n, dtype=torch.int64)
    return Batch(image, zero, eps, torch.tensor(index or range(n)), zero, torch.zeros(n, 4), zero - 1)


@pytest.mark.parametrize(
    ("name", "change", "eps", "expected"),
    [
        ("linf", [3.0, -0.5, 0.0, -4.0], 1.0, [1.0, -0.5, 0.0, -1.0]),
        ("l2", [3.0, 0.0, -4.0, 0.0], 1.0, [0.6, 0.0, -0.8, 0.0]),
        ("l2", [0.3, 0.0, -0.4, 0.0], 1.0, [0.3, 0.0, -0.4, 0.0]),
        ("l1", [3.0, -1.0, 0.0, 0.0], 2.0, [2.0, 0.0, 0.0, 0.0]),  # all shrink by 1
        ("l1", [3.0, -2.0, 0.5, 0.0], 3.0, [2.0, -1.0, 0.0, 0.0]),  # all shrink by 1
        ("l1", [3.0, -2.0, 1.0, 0.0], 3.6, [2.2, -1.2, 0.2, 0.0]),  # all shrink by 0.8
        ("l1", [0.5, -0.25, 0.25, 0.0], 1.0, [0.5, -0.25, 0.25, 0.0]),
        ("l1", [0.5, -0.25, 0.25, 0.0], 0.0, [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_projection_by_hand(name: str, change: list[float], eps: float, expected: list[float]) -> None:
    """Beside a row that stays as it is."""
    rows = torch.tensor([change, [0.125, 0.0, 0.0, 0.0]]).reshape(2, 1, 2, 2)
    moved = NORMS[name].project(rows, torch.tensor([eps, 10.0])).flatten(1)
    torch.testing.assert_close(moved[0], torch.tensor(expected), atol=2e-5, rtol=0)
    assert moved[1].tolist() == [0.125, 0, 0, 0]


def test_directions_by_hand() -> None:
    """Also of gradients so small that their squares are 0 in float32, beside one that is not."""
    grad = torch.tensor([[3.0, 0.0, -4.0, 0.0], [3e-35, 0.0, -4e-35, 0.0], [0.0, 0.0, 0.0, 0.0]]).reshape(3, 1, 2, 2)
    for name, expected in (("linf", [1.0, 0.0, -1.0, 0.0]), ("l2", [0.6, 0.0, -0.8, 0.0]), ("l1", [0.0, 0.0, -1.0, 0.0])):
        rows = torch.tensor([expected, expected, [0.0] * 4])
        torch.testing.assert_close(NORMS[name].steepest_direction(grad).flatten(1), rows)


def test_random_points_by_hand() -> None:
    """Which numbers are used is part of every record of an attack with a random start."""
    uniform = torch.tensor([[-0.25, 0.5, 0.0, 1.0], [0.0625, 0.5, 0.5, 0.5]]).reshape(2, 1, 2, 2)
    normal = torch.tensor([[3.0, -4.0, 0.0, 0.0], [0.0, 1.0, 2.0, 2.0]]).reshape(2, 1, 2, 2)
    assert torch.equal(NORMS["linf"].random_in_unit_ball(uniform, normal), uniform)
    l2 = NORMS["l2"].random_in_unit_ball(uniform, normal).flatten(1)
    root = 0.25**0.25
    torch.testing.assert_close(l2, torch.tensor([[0.6 * root, -0.8 * root, 0.0, 0.0], [0.0, 1 / 6, 1 / 3, 1 / 3]]))
    l1 = NORMS["l1"].random_in_unit_ball(uniform, normal).flatten(1)
    sizes = -np.log([0.25, 0.5, 1e-30, 1.0]), -np.log([0.0625, 0.5, 0.5, 0.5])
    first, second = sizes[0] / (sizes[0].sum() + 12.5), sizes[1] / (sizes[1].sum() + 0.5)
    expected = np.array([first * [-1, 1, 0, 1], second])
    torch.testing.assert_close(l1, torch.tensor(expected, dtype=torch.float32))


def test_pixels_are_kept_off_the_border_and_gradients_pass() -> None:
    image = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0], requires_grad=True)
    inner = inside_box(image, 0.1)
    torch.testing.assert_close(inner, torch.tensor([0.1, 0.1, 0.5, 0.9, 0.9]))
    inner.sum().backward()
    assert image.grad is not None
    assert image.grad.tolist() == [1] * 5


@quick
@given(names, pixels, changes, radii)
def test_projection_ends_in_ball_and_box(name: str, clean: Tensor, change: Tensor, eps: Tensor) -> None:
    norm = NORMS[name]
    image = project(norm, clean, clean + change, eps)
    assert image.dtype == clean.dtype
    assert image.shape == clean.shape
    distance = measure(norm, clean, image, eps, "test", torch.arange(3))
    assert bool((distance <= eps + 1e-5 * eps.clamp_min(1)).all())
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1


@quick
@given(names, changes, radii)
def test_projection_keeps_what_is_inside_and_is_idempotent(name: str, change: Tensor, eps: Tensor) -> None:
    norm = NORMS[name]
    clipped = norm.project(change, eps)
    inside = norm.norm(change) <= eps * (1 - 1e-6)
    # squares of less than 4e-23 are 0 in float32, so an L2 norm does not see them
    torch.testing.assert_close(clipped[inside], change[inside], atol=1e-22, rtol=0)
    torch.testing.assert_close(norm.project(clipped, eps), clipped, atol=1e-5, rtol=1e-4)


@quick
@given(names, changes, radii, st.integers(0, 1000))
def test_projection_is_the_nearest_point(name: str, change: Tensor, eps: Tensor, seed: int) -> None:
    norm = NORMS[name]
    other = norm.project(torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) + change, eps)
    nearer = (norm.project(change, eps) - change).flatten(1).norm(dim=1)
    assert bool((nearer <= (other - change).flatten(1).norm(dim=1) + 1e-4).all())


@quick
@given(names, changes)
def test_steepest_has_norm_one_and_reaches_the_dual_norm(name: str, grad: Tensor) -> None:
    norm = NORMS[name]
    direction = norm.steepest_direction(grad)
    largest = grad.flatten(1).abs().amax(1)
    moving = largest > 1e-30
    assert bool((norm.norm(direction)[largest == 0] == 0).all())
    torch.testing.assert_close(norm.norm(direction)[moving], torch.ones(int(moving.sum())), atol=1e-5, rtol=1e-5)
    gain = (direction * grad).flatten(1).sum(1)
    torch.testing.assert_close(gain, norm.dual_norm(grad), atol=1e-4, rtol=1e-4)


@quick
@given(names, pixels, radii, st.integers(0, 2**31))
def test_random_starts_lie_in_the_ball(name: str, clean: Tensor, eps: Tensor, seed: int) -> None:
    norm = NORMS[name]
    delta = ExampleRng(seed, "pgd").in_ball(norm, rows_of(clean, eps))
    assert delta.dtype == torch.float32
    assert bool((norm.norm(delta) <= eps * (1 + 1e-5) + 1e-12).all())


def test_eps_zero_is_the_clean_image() -> None:
    clean = torch.rand(SHAPE)
    for norm in NORMS.values():
        assert torch.equal(project(norm, clean, torch.rand(SHAPE), torch.zeros(3)), clean)


def test_eps_one_reaches_every_corner_of_the_box() -> None:
    clean = torch.rand(SHAPE)
    corner = (torch.rand(SHAPE) > 0.5).float()
    torch.testing.assert_close(project(NORMS["linf"], clean, corner, torch.ones(3)), corner)


@pytest.mark.parametrize("name", sorted(NORMS))
def test_starts_fill_the_ball(name: str) -> None:
    """The mean radius of a uniform point of the unit ball in d dimensions is d / (d + 1), in every norm."""
    image = torch.zeros(4000, 1, 2, 2)
    delta = ExampleRng(0, "fill").in_ball(NORMS[name], rows_of(image, torch.ones(4000)))
    assert float(NORMS[name].norm(delta).mean()) == pytest.approx(4 / 5, abs=0.01)
    assert float(delta.mean()) == pytest.approx(0, abs=0.02)


def test_noise_belongs_to_the_example() -> None:
    image, eps = torch.rand(4, 3, 4, 4), torch.full((4,), 0.1)
    together = ExampleRng(3, "pgd").uniform(rows_of(image, eps, [5, 2, 9, 7]))
    alone = ExampleRng(3, "pgd").uniform(rows_of(image[2:3], eps[:1], [9]))
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(alone, ExampleRng(4, "pgd").uniform(rows_of(image[:1], eps[:1], [9])))
    assert not torch.equal(alone, ExampleRng(3, "apgd").uniform(rows_of(image[:1], eps[:1], [9])))


def test_counter_numbers_are_uniform_and_depend_on_key_and_counter_alone() -> None:
    keys = ExampleRng(0, "square").keys(rows_of(torch.zeros(200, 3, 2, 2), torch.zeros(200)))
    drawn = counter_uniform(keys, torch.arange(200), 50)
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn.var()) == pytest.approx(1 / 12, abs=0.003)
    assert abs(float(torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max())) < 0.35
    assert torch.equal(counter_uniform(keys[7:9], torch.tensor([7, 8]), 50), drawn[7:9])
    assert not torch.equal(counter_uniform(keys[7:8], torch.tensor([8]), 50), drawn[7:8])


@pytest.mark.parametrize(("bad", "what"), [(0.2, "distance"), (-0.3, "pixels"), (float("nan"), "nan")])
def test_a_violation_names_attack_example_and_numbers(bad: float, what: str) -> None:
    clean = torch.full((2, 1, 2, 2), 0.1)
    image = clean.clone()
    image[1, 0, 0, 0] += bad
    with pytest.raises(ThreatModelViolation, match=f"'pgd'.*example 42.*{what}"):
        measure(NORMS["linf"], clean, image, torch.full((2,), 0.15), "pgd", torch.tensor([41, 42]))


@pytest.mark.parametrize(
    ("pixel", "eps", "allowed"),
    [
        (0.6 + 5e-7, 0.1, True),
        (0.6 + 1.5e-6, 0.1, False),
        (1 + 5e-7, 2.0, True),
        (1 + 1e-5, 2.0, False),
        (1.5, 2.0, False),
        (-5e-7, 2.0, True),
        (-1e-5, 2.0, False),
    ],
)
def test_a_violation_begins_beyond_rounding(pixel: float, eps: float, allowed: bool) -> None:
    clean = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    image = torch.tensor([[[[0.5, pixel]]]], dtype=torch.float64)
    try:
        distance = measure(NORMS["linf"], clean, image, torch.tensor([eps]), "pgd", torch.tensor([0]))
    except ThreatModelViolation:
        assert not allowed
    else:
        assert allowed
        assert distance.tolist() == pytest.approx([abs(pixel - 0.5)])
        assert distance.dtype == torch.float32


@pytest.mark.parametrize(("beyond", "allowed"), [(1e-5, True), (3e-5, False)])
def test_a_large_radius_rounds_in_proportion(beyond: float, allowed: bool) -> None:
    """16 in the L1 norm, over 64 pixels."""
    clean = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    image = clean + (16 + beyond) / 64
    try:
        measure(NORMS["l1"], clean, image, torch.tensor([16.0]), "pgd", torch.tensor([0]))
    except ThreatModelViolation:
        assert not allowed
    else:
        assert allowed


@quick
@given(names, pixels, changes, arrays(np.float32, 3, elements=st.floats(-2, 2, width=32)).map(torch.from_numpy))
def test_the_change_onto_a_hyperplane_stays_in_the_box_and_reaches_it(
    name: str, point: Tensor, normal: Tensor, rise: Tensor
) -> None:
    change = nearest(NORMS[name], point, normal, rise)
    moved = point + change
    assert float(moved.min()) >= -1e-6
    assert float(moved.max()) <= 1 + 1e-6
    reached = (change * normal).flatten(1).sum(1)
    up = torch.where(normal > 0, 1 - point, point)
    down = torch.where(normal > 0, point, 1 - point)
    most = torch.where(rise > 0, (normal.abs() * up).flatten(1).sum(1), -(normal.abs() * down).flatten(1).sum(1))
    expected = torch.where(rise > 0, torch.minimum(rise, most), torch.maximum(rise, most))
    torch.testing.assert_close(reached, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", sorted(NORMS))
def test_the_change_onto_a_hyperplane_is_the_smallest(name: str) -> None:
    """Away from the box's walls its norm is |rise| / dual norm; near them no scaled rival does better."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(50, 2, 4, 4, generator=generator)
    rise = torch.randn(50, generator=generator) * 0.05
    norm = NORMS[name]
    change = nearest(norm, torch.full_like(normal, 0.5), normal, rise)
    torch.testing.assert_close(norm.norm(change), rise.abs() / norm.dual_norm(normal), rtol=1e-4, atol=1e-6)
    point = torch.rand(50, 2, 4, 4, generator=generator)
    best = norm.norm(nearest(norm, point, normal, rise * 20))
    for _ in range(20):
        tilted = normal * (0.5 + torch.rand(normal.shape, generator=generator))
        rival = nearest(norm, point, tilted, rise * 20)
        gain = (rival * normal).flatten(1).sum(1)
        enough = gain * rise.sign() >= rise.abs() * 20
        assert bool((best <= norm.norm(rival) + 1e-5)[enough].all())


def test_per_row_broadcasts() -> None:
    assert per_row(torch.arange(3.0), torch.zeros(SHAPE)).shape == (3, 1, 1, 1)
