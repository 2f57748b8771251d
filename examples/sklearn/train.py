"""Handwritten digits with scikit-learn's perceptron, one partial fit an epoch."""

import logging

import hydra
from omegaconf import DictConfig
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

import hydrasweep

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg: DictConfig) -> float:
    X, y = load_digits(return_X_y=True)
    X_train, X_val, y_train, y_val = train_test_split(X, y, random_state=cfg.seed, stratify=y)
    scaler = StandardScaler().fit(X_train)
    X_train, X_val = scaler.transform(X_train), scaler.transform(X_val)

    model = MLPClassifier(
        hidden_layer_sizes=(cfg.hidden,),
        alpha=cfg.alpha,
        learning_rate_init=cfg.learning_rate,
        batch_size=cfg.batch_size,
        random_state=cfg.seed,
    )
    accuracy = 0.0
    for epoch in range(1, cfg.epochs + 1):
        model.partial_fit(X_train, y_train, classes=range(10))
        accuracy = model.score(X_val, y_val)
        log.info("epoch %d: %.4f", epoch, accuracy)
        if hydrasweep.report(accuracy, epoch):
            break
    hydrasweep.record(n_weights=sum(weights.size for weights in model.coefs_))
    return accuracy


if __name__ == "__main__":
    main()
