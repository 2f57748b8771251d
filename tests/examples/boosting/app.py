"""Gradient boosting with XGBoost, pruned by the callback of optuna-integration."""

import hydra
import xgboost
from omegaconf import DictConfig, OmegaConf
from optuna_integration import XGBoostPruningCallback
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import hydrasweep


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg: DictConfig) -> float:
    X, y = load_breast_cancer(return_X_y=True)
    X_train, X_val, y_train, y_val = train_test_split(X, y, random_state=0)
    validation = xgboost.DMatrix(X_val, y_val)
    history = {}
    xgboost.train(
        OmegaConf.to_container(cfg.booster),
        xgboost.DMatrix(X_train, y_train),
        num_boost_round=cfg.n_rounds,
        evals=[(validation, "validation")],
        evals_result=history,
        callbacks=[XGBoostPruningCallback(hydrasweep.trial(), "validation-logloss")],
    )
    return history["validation"]["logloss"][-1]


if __name__ == "__main__":
    main()
