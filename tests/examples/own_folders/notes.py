"""A callback of Hydra's that signs off each job."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SignOff(Callback):
    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        del kwargs
        ended = Path(config.hydra.runtime.output_dir) / "ended.txt"
        with ended.open("a") as file:
            file.write(f"{job_return.status.name} {config.slope}\n")
