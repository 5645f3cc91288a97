"""Training of the networks: from a request to a checkpoint with its card, by one process or several."""

from robustatt.train.augment import adversarial_images, augment
from robustatt.train.card import channel_statistics, start_from
from robustatt.train.loop import train
from robustatt.train.request import TrainRequest
from robustatt.train.schedule import learning_rate

__all__ = [
    "TrainRequest", "adversarial_images", "augment", "channel_statistics", "learning_rate", "start_from", "train",
]  # fmt: skip
