"""The sweep as a script around Optuna: a side of sweeps.py.

python tests/benchmarks/optuna_script.py FOLDER N_TRIALS SEED

One process with torch's own threads, a DataLoader, one study over all architectures, Optuna's own
sampler and pruner (median): what Optuna's examples for PyTorch have. Recipe, images and search
space are those of conf/hparams_search/optuna.yaml.
"""

import sys
from pathlib import Path

import optuna
import torch
from common import job
from loop import plain_model
from sweeps import EPOCHS, PART, ROOT
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def loaders(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Of the images to train on and to validate on: the same as in the other sides."""
    steps = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    parts = []
    for split in SPLITS:
        part = datasets.MNIST(ROOT / "data", download=True, transform=transforms.Compose(steps))
        part.data, part.targets = split.inputs[:, 0], split.targets
        parts.append(part)
    train, val = parts
    return DataLoader(train, batch_size, shuffle=True), DataLoader(val, batch_size)


def objective(trial: optuna.Trial) -> float:
    name = trial.suggest_categorical("model", ["baseline", "cnn", "lenet5"])
    model = plain_model(name, trial.suggest_float("model.dropout", 0.0, 0.5))
    lr = trial.suggest_float("optimizer.lr", 3e-4, 3e-2, log=True)
    batch_size = trial.suggest_categorical("data.batch_size", [32, 64, 128, 256])
    train, val = loaders(batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        lr,
        EPOCHS * len(train),
        pct_start=0.06,
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    accuracy = 0.0
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            n_correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in val)
        accuracy = n_correct / len(val.dataset)
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


if __name__ == "__main__":
    folder, n_trials, seed = sys.argv[1:]
    both = job("model=baseline", *PART)
    SPLITS = both.train, both.val
    torch.set_num_threads(2)
    torch.manual_seed(int(seed))
    study = optuna.create_study(
        study_name="script",
        storage=f"sqlite:///{Path(folder)}/study.db",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=int(seed)),
    )
    study.optimize(objective, n_trials=int(n_trials))
