"""The allowed perturbations: a norm ball of radius eps around the image, intersected with the box [0, 1].

An attack is written once; the norms differ only in distance, projection, steepest direction and random start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from robustatt.errors import ThreatModelViolation

TOLERANCE = 1e-6


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Values of shape (n,) viewed as (n, 1, ..., 1), to broadcast against `like` of shape (n, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


class Norm(ABC):
    """A norm on images. All methods work row by row on tensors of shape (n, ...)."""

    name: ClassVar[str]
    dual: ClassVar[str]

    @abstractmethod
    def norm(self, delta: Float[Tensor, "n *image"]) -> Float[Tensor, " n"]:
        """The norm of each row."""

    @abstractmethod
    def project(self, delta: Float[Tensor, "n *image"], eps: Float[Tensor, " n"]) -> Float[Tensor, "n *image"]:
        """Each row moved to the nearest point of the ball of radius eps (Euclidean projection)."""

    @abstractmethod
    def steepest_direction(self, grad: Float[Tensor, "n *image"]) -> Float[Tensor, "n *image"]:
        """The direction of norm 1 with the largest inner product with grad; 0 where grad is 0."""

    @abstractmethod
    def random_in_unit_ball(
        self, uniform: Float[Tensor, "n *image"], normal: Float[Tensor, "n *image"]
    ) -> Float[Tensor, "n *image"]:
        """Uniform points of the unit ball, from uniform noise in [-1, 1] and standard normal noise."""

    def dual_norm(self, grad: Float[Tensor, "n *image"]) -> Float[Tensor, " n"]:
        """The dual norm: how fast a linear function with this gradient grows per unit of radius."""
        return NORMS[self.dual].norm(grad)


class Linf(Norm):
    """The largest change of any pixel."""

    name = "linf"
    dual = "l1"

    def norm(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        limit = per_row(eps, delta)
        return torch.minimum(torch.maximum(delta, -limit), limit)

    def steepest_direction(self, grad: Tensor) -> Tensor:
        return grad.sign()

    def random_in_unit_ball(self, uniform: Tensor, normal: Tensor) -> Tensor:
        del normal
        return uniform


class L2(Norm):
    """The Euclidean length of the change."""

    name = "l2"
    dual = "l2"

    def norm(self, delta: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return size

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        length = self.norm(delta)
        return delta * per_row((eps / length.clamp_min(1e-30)).clamp(max=1.0), delta)

    def steepest_direction(self, grad: Tensor) -> Tensor:
        # Two steps, so that gradients as small as 1e-30 keep their direction.
        scaled = grad / per_row(grad.flatten(1).abs().amax(1).clamp_min(1e-38), grad)
        return scaled / per_row(self.norm(scaled).clamp_min(1e-12), grad)

    def random_in_unit_ball(self, uniform: Tensor, normal: Tensor) -> Tensor:
        size = uniform[0].numel()
        radius = (uniform.flatten(1)[:, 0].abs()) ** (1.0 / size)
        return self.steepest_direction(normal) * per_row(radius, normal)


class L1(Norm):
    """The sum of all changes."""

    name = "l1"
    dual = "linf"

    def norm(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        """Duchi et al. 2008, figure 1: soft-threshold by the level at which the row sums to eps.

        In float64 and a hair (4e-6) inside, because the sum of thousands of float32 pixels rounds.
        """
        flat = delta.flatten(1).double()
        size, limit = flat.abs(), eps.double()
        ordered = size.sort(dim=1, descending=True).values
        count = torch.arange(1, flat.shape[1] + 1, device=flat.device)
        excess = (ordered.cumsum(1) - limit[:, None] * (1 - 4e-6)) / count
        kept = (ordered > excess).sum(1, keepdim=True).clamp_min(1)
        level = excess.gather(1, kept - 1).clamp_min(0)
        clipped = (flat.sign() * (size - level).clamp_min(0)).to(delta.dtype).reshape(delta.shape)
        return torch.where(per_row(size.sum(1) <= limit, delta), delta, clipped)

    def steepest_direction(self, grad: Tensor) -> Tensor:
        flat = grad.flatten(1)
        best = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, best, flat.gather(1, best).sign()).reshape(grad.shape)

    def random_in_unit_ball(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Signed exponentials, normalised with one more of them: uniform in the unit ball (Barthe et al.
        2005)."""
        magnitude = -(uniform.abs().clamp_min(1e-30)).log().flatten(1)
        spare = normal.flatten(1)[:, 0].square() / 2 + normal.flatten(1)[:, 1].square() / 2
        unit = magnitude / (magnitude.sum(1) + spare)[:, None]
        return unit.reshape(uniform.shape) * uniform.sign()


NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf(), L2(), L1())}


def project(
    norm: Norm, clean: Float[Tensor, "n *image"], image: Float[Tensor, "n *image"], eps: Float[Tensor, " n"]
) -> Float[Tensor, "n *image"]:
    """Images brought into the ball of radius eps around the clean ones, then into [0, 1].

    The second step only shrinks changes, because the clean images lie in the box, so both hold afterwards.
    """
    return (clean + norm.project(image - clean, eps)).clamp(0.0, 1.0)


def nearest_in_ball_and_box(
    clean: Float[Tensor, "n *image"], delta: Float[Tensor, "n *image"], eps: Float[Tensor, " n"]
) -> Float[Tensor, "n *image"]:
    """The change nearest to `delta` that has L1 norm at most eps and keeps the image in [0, 1].

    Croce & Hein 2021, proposition 2.1: min(max(|delta_i| - level, 0), room_i) with the sign of delta_i, where room_i
    is how far the pixel may move that way. The sum of these falls in straight pieces as the level rises, so the level
    is found among the sorted corners. In float64 and a hair (4e-6) inside, because float32 pixels round.
    """
    flat, start = delta.flatten(1).double(), clean.flatten(1).double()
    size, limit = flat.abs(), eps.double()[:, None] * (1 - 4e-6)
    room = torch.where(flat > 0, 1 - start, start)
    corner = torch.cat([size, size - room], dim=1)
    turn = torch.cat([torch.ones_like(size), -torch.ones_like(size)], dim=1)
    corner, order = corner.sort(dim=1, descending=True)
    slope = turn.gather(1, order).cumsum(1)
    total = torch.cat([torch.zeros_like(limit), (slope[:, :-1] * -corner.diff(dim=1)).cumsum(1)], dim=1)
    piece = ((total < limit).sum(1, keepdim=True) - 1).clamp_min(0)
    level = corner.gather(1, piece) - (limit - total.gather(1, piece)) / slope.gather(1, piece).clamp_min(1)
    short = torch.minimum(size, room).sum(1, keepdim=True) <= limit
    level = torch.where(short, 0.0, level.clamp_min(0))
    near = flat.sign() * torch.minimum((size - level).clamp_min(0), room)
    return near.to(delta.dtype).reshape(delta.shape)


def inside_box(image: Float[Tensor, "n *image"], margin: float) -> Float[Tensor, "n *image"]:
    """Images with every pixel at least `margin` away from 0 and 1, where the border hides no gradient.

    The move is passed through: the gradient with respect to `image` is the one at the result.
    """
    with torch.no_grad():
        move = image.clamp(margin, 1 - margin) - image
    return image + move


def measure(
    norm: Norm,
    clean: Float[Tensor, "n *image"],
    image: Float[Tensor, "n *image"],
    eps: Float[Tensor, " n"],
    attack: str,
    index: Tensor,
) -> Float[Tensor, " n"]:
    """The achieved distances, measured; ThreatModelViolation if an image left the ball, the box or the
    numbers."""
    distance = norm.norm(image.double() - clean.double())
    low, high = image.flatten(1).amin(1), image.flatten(1).amax(1)
    slack = TOLERANCE * eps.double().clamp_min(1.0)
    wrong = ~(distance <= eps.double() + slack) | ~(low >= -TOLERANCE) | ~(high <= 1 + TOLERANCE)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ThreatModelViolation(
            f"attack {attack!r} returned an image outside the threat model for example {int(index[row])}: "
            f"{norm.name} distance {float(distance[row]):.6g} with eps {float(eps[row]):.6g}, "
            f"pixels in [{float(low[row]):.6g}, {float(high[row]):.6g}]"
        )
    return distance.float()
