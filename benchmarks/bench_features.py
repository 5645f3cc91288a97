"""How fast features are extracted against a bare forward loop, and how long a linear SVM takes. Not a test.

``python benchmarks/bench_features.py [--svm]``: prints images/s and the ratio for each bundled digits network (both loops
in turn, the median of several rounds), then with ``--svm`` the time of 5 folds on 10,000 x 1,280 features of 10 classes.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from robustatt import models
from robustatt.data import TensorDataset
from robustatt.engine.worker import automatic_batch_size
from robustatt.evaluate.cell import as_float
from robustatt.studies.transfer import svm
from robustatt.studies.transfer.features import FeatureExtractor, feature_extractor

CPU = torch.device("cpu")


def bare(network: torch.nn.Module, dataset: TensorDataset, memory_format: torch.memory_format) -> float:
    """Seconds of nothing but forward passes of the same frozen network, on images that are floats already."""
    size = automatic_batch_size(dataset.image_shape, CPU)
    batches = [part.contiguous(memory_format=memory_format) for part in as_float(dataset.images).split(size)]
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            network(batch)
    return time.perf_counter() - started


def ours(extractor: FeatureExtractor, dataset: TensorDataset) -> float:
    """Seconds from uint8 images to the matrix of features, without the cache."""
    started = time.perf_counter()
    extractor.extract(dataset)
    return time.perf_counter() - started


def ratio(name: str, images: int, rounds: int) -> None:
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    dataset = TensorDataset(pixels, torch.zeros(images, dtype=torch.int64))
    with feature_extractor(models.load(name), name, CPU, as_float(pixels[:16])) as extractor:
        network, memory_format = extractor.network, extractor.memory_format
        bare(network, dataset, memory_format), ours(extractor, dataset)
        pairs = [(bare(network, dataset, memory_format), ours(extractor, dataset)) for _ in range(rounds)]
    loop, mine = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{name}: bare {images / loop:,.0f} images/s, features {images / mine:,.0f} images/s, ratio {loop / mine:.2f}")


def time_svm(n: int, width: int, classes: int) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, n)
    mixing = 0.5 * np.eye(width) + generator.normal(size=(width, width)) / width**0.5
    means = 0.08 * generator.normal(size=(classes, width))
    features = np.maximum((means[labels] + generator.normal(size=(n, width))) @ mixing, 0).astype(np.float32)
    wall, cpu = time.perf_counter(), time.process_time()
    answers = svm.answer_out_of_fold(features, labels.astype(np.int64), 5, 0)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    right = (answers.predicted == labels).mean()
    print(f"SVM, 5 folds of {n:,} x {width:,}: {wall:.0f} s, {cpu:.0f} s of CPU; accuracy {right:.1%}, C {answers.penalties}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--svm", action="store_true")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    for model in models.bundled()["digits"]:
        ratio(model, flags.images, flags.rounds)
    if flags.svm:
        time_svm(10_000, 1_280, 10)
