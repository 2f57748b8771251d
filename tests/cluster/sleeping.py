"""The entrypoint's sweeps with trials that only sleep.

python tests/cluster/sleeping.py -m hparams_search=random +seconds=2
"""

import math
import os
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

os.environ.setdefault("HYDRASWEEP_ROOT", str(Path(__file__).resolve().parents[2]))

from hydrasweep import cli, config, search
from hydrasweep.search import trial
from hydrasweep.tracking import Description


def sleep(cfg: DictConfig, output_dir: Path) -> float:
    """Sleep for ``cfg.seconds``, reporting as often as there are epochs; better near a rate
    of 0.003."""
    value = 1 - abs(math.log10(cfg.optimizer.lr / 0.003))
    about = Description("asleep", config.flatten(cfg.optimizer), {}, None, ())
    with config.build(cfg.tracking).run(output_dir, about) as run:
        for epoch in range(1, cfg.epochs + 1):
            time.sleep(cfg.seconds / cfg.epochs)
            metrics = {cfg.objective: value * epoch / cfg.epochs}
            run.log(metrics, epoch)
            trial.current().report(metrics, [cfg.objective], epoch)
    return value


@hydra.main(config_path="../../conf", config_name="train", execution_whitelist=config.TRUSTED)
def main(cfg: DictConfig) -> float:
    return sleep(cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    with cli.plain_exit():
        search.register()
        main()
