"""The entrypoint's own training under hydra-optuna-sweeper as it comes: a side of sweeps.py."""

import hydra
from omegaconf import DictConfig

from mnist import config


@hydra.main(config_path="../../conf", config_name="train", execution_whitelist=config.TRUSTED)
def main(cfg: DictConfig) -> float:
    import train

    value = train.train(*config.resolve_run(cfg))
    assert isinstance(value, float)
    return value


if __name__ == "__main__":
    main()
