"""How fast networks train and JPEG files decode on this machine.

    python benchmarks/bench_training.py

Training: images/s of `robustatt train` on digits at width 1/8 (32x32, batches of 128), and the share of the float32
matrix-product speed measured in the same run; a training step counts as three forward passes. Decoding: 1,000 JPEG
files of 224x224 through the image-folder reader, by one thread and by all.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from bench import forward_gflop, matrix_peak
from PIL import Image

from robustatt import data, models
from robustatt.data import decode
from robustatt.train import TrainRequest, train

WIDTH, BATCH = 0.125, 128


def training_speed(name: str, folder: Path) -> float:
    """Images a second over the steps of the second epoch."""
    seen: list[tuple[int, float]] = []

    def note(epoch: int, step: int, steps: int, loss: float, accuracy: float) -> None:
        del step, steps, loss, accuracy
        seen.append((epoch, time.perf_counter()))

    train(
        TrainRequest(model=name, width=WIDTH, epochs=2, batch_size=BATCH, dropout=0.0, out=folder / f"{name}.safetensors"),
        note,
    )
    times = [at for epoch, at in seen if epoch == 2]
    return BATCH * (len(times) - 1) / (times[-1] - times[0])


def write_jpegs(folder: Path, count: int) -> None:
    """Smooth random pictures, about as dear to decode as photographs."""
    rng = np.random.default_rng(0)
    for label in range(2):
        (folder / str(label)).mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        picture = coarse.resize((224, 224), Image.Resampling.BICUBIC)
        picture.save(folder / str(number % 2) / f"{number}.jpg", quality=90)


def decoding_seconds(folder: Path, threads: int) -> float:
    """Seconds to decode every file of the folder."""
    pool = ThreadPoolExecutor(threads)
    decode.workers.cache_clear()
    original, decode.workers = decode.workers, lambda: pool  # type: ignore[assignment]
    try:
        dataset = data.load(str(folder))
        began = time.perf_counter()
        dataset.tensors(range(len(dataset)))
        return time.perf_counter() - began
    finally:
        decode.workers = original


def main() -> None:
    """Print both."""
    peak = matrix_peak()
    threads = torch.get_num_threads()
    print(f"{threads} threads, torch {torch.__version__}, float32 matrix product {peak:.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as name:
        for model in ("vgg", "vgg_att3"):
            speed = training_speed(model, Path(name))
            work = 3 * forward_gflop(models.build(model, width=WIDTH))
            print(f"train {model}, width {WIDTH}: {speed:.0f} images/s, {speed * work / peak:.0%} of the peak")
        write_jpegs(Path(name) / "jpegs", 1000)
        cores = os.cpu_count() or 1
        one, every = (decoding_seconds(Path(name) / "jpegs", count) for count in (1, cores))
        print(f"decode 1,000 JPEGs of 224x224: {one:.2f} s by 1 thread, {every:.2f} s by {cores}: {one / every:.1f} times")


if __name__ == "__main__":
    main()
