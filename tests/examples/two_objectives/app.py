"""A decision tree on the breast cancer data: accuracy against size."""

import hydra
from omegaconf import DictConfig
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

import hydrasweep


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg: DictConfig) -> tuple[float, int]:
    X, y = load_breast_cancer(return_X_y=True)
    X_train, X_val, y_train, y_val = train_test_split(X, y, random_state=0)
    tree = DecisionTreeClassifier(
        max_depth=cfg.max_depth, ccp_alpha=cfg.ccp_alpha, random_state=0
    ).fit(X_train, y_train)
    accuracy = tree.score(X_val, y_val)
    if hydrasweep.report(accuracy, 1):
        raise RuntimeError("nothing is pruned with several objectives")
    return accuracy, tree.get_n_leaves()


if __name__ == "__main__":
    main()
