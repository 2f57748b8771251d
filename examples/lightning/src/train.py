"""Trains what the configs describe, as lightning-hydra-template does."""

import hydra
import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

TARGETS = ["digits.*", "perceptron.*", "lightning.*", "torch.*", "optuna_integration.*",
           "hydrasweep.*"]  # fmt: skip


@hydra.main(config_path="../configs", config_name="train", execution_whitelist=TARGETS)
def main(cfg: DictConfig) -> float:
    L.seed_everything(cfg.seed, workers=True)
    datamodule = instantiate(cfg.data)
    model = instantiate(cfg.model)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    loggers = [instantiate(logger) for logger in cfg.logger.values()]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers)
    settings = OmegaConf.masked_copy(cfg, ["data", "model"])
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(settings, resolve=True))
    trainer.fit(model=model, datamodule=datamodule)
    return trainer.callback_metrics[cfg.optimized_metric].item()


if __name__ == "__main__":
    main()
