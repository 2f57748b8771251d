import logging

import hydra
from omegaconf import DictConfig

log = logging.getLogger(__name__)


def task_wrapper(task_func):
    """Logs what ends a task, whatever that is."""

    def wrap(cfg: DictConfig):
        try:
            return task_func(cfg)
        except Exception:
            log.exception("")
            raise
        finally:
            log.info("Output dir: %s", cfg.paths.output_dir)

    return wrap


def instantiate_callbacks(callbacks_cfg: DictConfig | None) -> list:
    if not callbacks_cfg:
        return []
    return [hydra.utils.instantiate(each) for each in callbacks_cfg.values() if "_target_" in each]


def get_metric_value(metric_dict: dict, metric_name: str | None) -> float | None:
    if not metric_name:
        return None
    if metric_name not in metric_dict:
        raise Exception(f"Metric value not found! <metric_name={metric_name}>")
    return float(metric_dict[metric_name])
