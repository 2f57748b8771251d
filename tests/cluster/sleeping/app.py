"""Trials that only sleep, for tests with many processes and machines."""

import math
from contextlib import nullcontext

import hydra
from naps import nap
from omegaconf import DictConfig

import hydrasweep


@hydra.main(config_path=".", config_name="config")
def main(cfg: DictConfig) -> float:
    """Sleep for ``cfg.seconds`` in so many steps; better near a rate of 0.003."""
    value = 1 - abs(math.log10(cfg.rate / 0.003))
    if cfg.mlflow:
        import mlflow  # two seconds
    with mlflow.start_run() if cfg.mlflow else nullcontext():
        for step in range(1, cfg.n_steps + 1):
            nap(cfg.seconds / cfg.n_steps)
            reached = value * step / cfg.n_steps
            if cfg.mlflow:
                mlflow.log_metric("reached", reached, step)
            if hydrasweep.report(reached, step):
                break
    return value


if __name__ == "__main__":
    main()
