"""The slope of a line through points; works in a folder of its own for each run."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import hydra
import points
from hydra.core.config_store import ConfigStore
from hydra.utils import to_absolute_path
from omegaconf import MISSING

import hydrasweep

log = logging.getLogger("line")


@dataclass
class Config:
    data: str = MISSING
    slope: float = 0.0
    output: Path = Path("fit.json")


ConfigStore.instance().store(name="schema", node=Config)


def set_up_logging() -> None:
    file = logging.FileHandler("line.log")
    file.setFormatter(logging.Formatter("%(levelname)s|%(process)d|%(message)s"))
    log.handlers = [file]
    log.setLevel(logging.DEBUG)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: Config) -> float:
    set_up_logging()
    data = points.read(to_absolute_path(cfg.data))
    log.info("read %d points, slope %s", len(data), cfg.slope)
    error = 0.0
    for step, point in enumerate(data):
        error += (1 + cfg.slope * point.x - point.y) ** 2
        log.debug("step %d", step)
        if hydrasweep.report(error, step):
            break
    print("error:", error)
    found = {"slope": cfg.slope, "error": error, "pid": os.getpid()}
    cfg.output.write_text(json.dumps(found))
    return error


if __name__ == "__main__":
    main()
