"""Breast cancer from a table of measurements: a linear classifier, cross-validated."""

import hydra
import numpy as np
from omegaconf import DictConfig
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

import hydrasweep


@hydra.main(config_path=".", config_name="config")
def main(cfg: DictConfig) -> float:
    X, y = load_breast_cancer(return_X_y=True)
    folds = []
    for train, val in StratifiedKFold(cfg.n_folds, shuffle=True, random_state=0).split(X, y):
        scaler = StandardScaler().fit(X[train])
        model = SGDClassifier(**cfg.classifier, random_state=cfg.random_state)
        folds.append(
            (model, scaler.transform(X[train]), y[train], scaler.transform(X[val]), y[val])
        )

    # All folds advance together: there is a cross-validated score to report after every epoch.
    for epoch in range(cfg.n_epochs):
        scores = []
        for model, X_train, y_train, X_val, y_val in folds:
            model.partial_fit(X_train, y_train, classes=[0, 1])
            scores.append(model.score(X_val, y_val))
        if hydrasweep.report(np.mean(scores), epoch):
            break
    hydrasweep.record(worst_fold=min(scores))
    return np.mean(scores)


if __name__ == "__main__":
    main()
