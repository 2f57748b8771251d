"""A linear classifier, cross-validated; MLflow records each fit by itself."""

import hydra
import mlflow
import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hydrasweep


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    mlflow.sklearn.autolog(log_models=False)
    X, y = load_wine(return_X_y=True)
    folds = StratifiedKFold(cfg.n_folds, shuffle=True, random_state=cfg.seed)
    scores = []
    for i, (train, val) in enumerate(folds.split(X, y)):
        model = make_pipeline(
            StandardScaler(),
            SGDClassifier(alpha=cfg.alpha, penalty=cfg.penalty, random_state=cfg.seed),
        )
        model.fit(X[train], y[train])
        scores.append(model.score(X[val], y[val]))
        if hydrasweep.report(np.mean(scores), i):
            break
    return np.mean(scores)


if __name__ == "__main__":
    main()
