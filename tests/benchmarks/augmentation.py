"""An epoch of LeNet5 with distorted images against one with plain images, one thread."""

import statistics
from functools import partial

from common import PART, Rows, in_turns, job, ratio, size

from mnist.training import fit

N_ROUNDS = size(7, 1)
KINDS = ("none", "affine", "elastic", "elastic_affine")


def measure() -> Rows:
    sides = {}
    for kind in KINDS:
        ours = job("model=lenet5", "scheduler=constant", f"augmentation={kind}", *PART)
        epochs = fit(ours.training, ours.train, ours.val, epochs=N_ROUNDS + 1, batch_size=100)
        sides[kind] = partial(next, epochs)
    times = in_turns(N_ROUNDS, **sides)
    return [
        {
            "augmentation": kind,
            "s an epoch": statistics.median(times[kind]),
            "times that of none": ratio(times[kind], times["none"]),
        }
        for kind in KINDS
    ]
