"""Writes down the config that it was given, and what it can ask of its sweep."""

import json
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import hydrasweep


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    trial = hydrasweep.trial()
    seen = {
        "cfg": OmegaConf.to_container(cfg, resolve=True),
        "trial": [trial.sweep, trial.phase, trial.stratum, trial.name, trial.parent_run_id],
    }
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "seen.json").write_text(json.dumps(seen))
    loss = (cfg.params.x - 0.3) ** 2 + cfg.random.seed / 1000
    hydrasweep.report(loss, 1)
    return loss


if __name__ == "__main__":
    main()
