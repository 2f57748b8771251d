"""Laid out as ashleve/lightning-hydra-template is."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parents[1]))  # as rootutils.setup_root does

from src.utils import get_metric_value, instantiate_callbacks, task_wrapper


@task_wrapper
def train(cfg: DictConfig) -> tuple[dict, dict]:
    datamodule = hydra.utils.instantiate(cfg.data)
    model = hydra.utils.instantiate(cfg.model)
    callbacks = instantiate_callbacks(cfg.get("callbacks"))
    trainer = hydra.utils.instantiate(cfg.trainer, callbacks=callbacks)
    trainer.fit(model=model, datamodule=datamodule)
    objects = {"cfg": cfg, "datamodule": datamodule, "model": model, "trainer": trainer}
    return trainer.callback_metrics, objects


@hydra.main(version_base="1.3", config_path="../configs", config_name="train.yaml")
def main(cfg: DictConfig) -> float | None:
    metric_dict, _ = train(cfg)
    return get_metric_value(metric_dict, cfg.get("optimized_metric"))


if __name__ == "__main__":
    main()
