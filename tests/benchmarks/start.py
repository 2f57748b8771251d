"""From the command to its first batch, --help and --cfg job, against `import torch`: seconds.

The clock stops when the augmentation receives the first batch, and ends the process. In a sweep it
is the first batch of the first trial.
"""

import os
import statistics
import tempfile
from pathlib import Path

import psutil
from common import Rows, in_turns, python, size
from torch import Tensor, nn

import hydrasweep

N_ROUNDS = size(5, 1)
COMMANDS = {
    "torch": "python -c 'import torch'",
    "training": "train.py model=lenet5, to its first batch",
    "sweep": "train.py -m hparams_search=optuna, to its first batch",
    "help": "train.py --help",
    "config": "train.py --cfg job",
}


class End(nn.Module):
    """Ends the process instead of augmenting a batch of training."""

    def forward(self, pixels: Tensor) -> Tensor:
        if self.training and hydrasweep.trial().name != "check":
            if hydrasweep.trial().sweep:
                psutil.Process().parent().parent().terminate()
            os._exit(0)
        return pixels


def measure() -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        first = ("src/train.py", "model=lenet5", "augmentation._target_=start.End")
        sweep = ("src/train.py", "-m", "hparams_search=optuna", first[-1])
        times = in_turns(
            N_ROUNDS,
            torch=lambda: python("-c", "import torch"),
            training=lambda: python(*first, store=Path(folder)),
            sweep=lambda: python(*sweep, code=143, store=Path(folder)),
            help=lambda: python("src/train.py", "--help"),
            config=lambda: python("src/train.py", "--cfg", "job"),
        )
    return [
        {
            "command": command,
            "seconds": statistics.median(times[side]),
            "(seconds - 1) / torch's": statistics.median(
                (t - 1) / torch for t, torch in zip(times[side], times["torch"], strict=True)
            ),
        }
        for side, command in COMMANDS.items()
    ]
