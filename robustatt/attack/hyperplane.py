"""The smallest change that brings a point of the box [0, 1] onto a hyperplane, in each norm.

FAB needs it twice a step (Croce & Hein 2020b, section 2.2). In a norm's dual view the solution is a ray cut
to the box: change(t) = clip(t * direction, room), and t solves a piecewise linear equation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from robustatt.attack.norms import Norm

MAX_NEWTON_STEPS = 60


def nearest(
    norm: Norm, point: Float[Tensor, "n *image"], normal: Float[Tensor, "n *image"], rise: Float[Tensor, " n"]
) -> Float[Tensor, "n *image"]:
    """The change d of least norm with normal . d = rise and point + d in [0, 1].

    Where the box is too small for that, the change that comes closest. Zero where the normal is zero.
    """
    flat, slope = point.flatten(1), normal.flatten(1) * torch.where(rise < 0, -1.0, 1.0)[:, None]
    wanted = rise.abs()
    gain = slope.abs()
    room = torch.where(slope > 0, 1 - flat, flat).clamp_min(0)  # how far each pixel can move the wanted way
    if norm.name == "l1":
        size = _greedy(gain, room, wanted)
    else:
        pace = (gain > 0).to(gain.dtype) if norm.name == "linf" else gain
        size = torch.minimum(_time(gain, pace, room, wanted)[:, None] * pace, room)
    return (size * slope.sign()).reshape(point.shape)


def _time(gain: Tensor, pace: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """t with sum(gain * min(t * pace, room)) = wanted.

    The left side is concave and piecewise linear in t, so Newton's method from 0 rises to the solution in
    finitely many steps; infinite where the sum cannot reach it.
    """
    limit = torch.where(pace > 0, room / pace.clamp_min(1e-38), torch.zeros_like(room))
    reach = torch.where(gain > 0, gain * room, torch.zeros_like(room))
    time = torch.zeros_like(wanted)
    for _ in range(MAX_NEWTON_STEPS):
        moving = limit > time[:, None]
        rate = (gain * pace * moving).sum(1)
        reached = (torch.where(moving, gain * pace * time[:, None], reach)).sum(1)
        missing = wanted - reached
        going = (missing > 1e-6 * wanted) & (rate > 0)
        if not bool(going.any()):
            break
        time = torch.where(going, time + missing / rate.clamp_min(1e-38), time)
    return time


def _greedy(gain: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """L1: move the pixels of the largest gain first, each as far as it can; the last one part of the way."""
    order = gain.argsort(dim=1, descending=True)
    worth = (gain * room).gather(1, order)
    before = worth.cumsum(1) - worth
    part = ((wanted[:, None] - before) / worth.clamp_min(1e-38)).clamp(0, 1)
    return torch.zeros_like(room).scatter(1, order, part * room.gather(1, order))
