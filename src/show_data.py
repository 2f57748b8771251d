"""Draw the first 16 training images: python src/show_data.py data=mnist"""

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig

from hydrasweep import plain_exit
from mnist import config

os.environ.setdefault("HYDRASWEEP_ROOT", str(Path(__file__).resolve().parents[1]))


@hydra.main(config_path="../conf", config_name="train", execution_whitelist=config.TRUSTED)
def main(cfg: DictConfig) -> None:
    _, output_dir = config.resolve_run(cfg)
    from mnist import figures

    path = output_dir / "first_images.png"
    figures.draw_first(config.build(cfg.data), path)
    print(path)


if __name__ == "__main__":
    with plain_exit():
        main()
