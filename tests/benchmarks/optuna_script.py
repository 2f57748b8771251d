"""The sweep as a script around Optuna: a side of sweeps.py.

python tests/benchmarks/optuna_script.py FOLDER N_TRIALS SEED

One process with torch's own threads, a DataLoader, one study over all architectures, Optuna's own
sampler and pruner (median): what Optuna's examples for PyTorch have. Recipe, images and search
space are those of conf/hparams_search/optuna.yaml.
"""

import sys

import optuna
import torch
from common import job
from plain import accuracy, model_of, train, training_images
from sweeps import EPOCHS, PART
from torch.utils.data import DataLoader


def loaders(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """The images to train on and to validate on, the same as those of the other sides."""
    parts = []
    for split in SPLITS:
        part = training_images()
        part.data, part.targets = split.inputs[:, 0], split.targets
        parts.append(part)
    return DataLoader(parts[0], batch_size, shuffle=True), DataLoader(parts[1], batch_size)


def objective(trial: optuna.Trial) -> float:
    name = trial.suggest_categorical("model", ["baseline", "cnn", "lenet5"])
    model = model_of(name, trial.suggest_float("model.dropout", 0.0, 0.5))
    lr = trial.suggest_float("optimizer.lr", 3e-4, 3e-2, log=True)
    batches, val = loaders(trial.suggest_categorical("data.batch_size", [32, 64, 128, 256]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        lr,
        EPOCHS * len(batches),
        pct_start=0.06,
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    score = 0.0
    for epoch in range(1, EPOCHS + 1):
        train(model, optimizer, batches, after_step=scheduler.step)
        score = accuracy(model, val)
        trial.report(score, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return score


if __name__ == "__main__":
    folder, n_trials, seed = sys.argv[1:]
    parts = job("model=baseline", *PART)
    SPLITS = parts.train, parts.val
    torch.set_num_threads(2)
    torch.manual_seed(int(seed))
    study = optuna.create_study(
        study_name="script",
        storage=f"sqlite:///{folder}/study.db",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=int(seed)),
    )
    study.optimize(objective, n_trials=int(n_trials))
