"""What happens before a multirun and after it."""

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from hydrasweep import plain_exit
from mnist.config import check


class Multirun(Callback):
    """Checks the settings of a multirun at once, before anything heavy is imported, and prints the
    runs of ``python src/train.py -m model=cnn,lenet5`` side by side at its end; a sweep that
    searches has a table of its own."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra, which lets no error but an exit through."""
        del kwargs
        own = OmegaConf.masked_copy(config, [key for key in map(str, config) if key != "hydra"])
        if not OmegaConf.missing_keys(own):  # else they are searched
            with plain_exit():
                check(own)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra."""
        del kwargs
        if "hydrasweep" in config.hydra.sweeper._target_:
            return
        folder = Path(config.hydra.sweep.dir)
        runs = sorted(folder.glob("*/metrics.jsonl"), key=lambda path: path.parent.name.zfill(9))
        if len(runs) > 1:
            _show([_row(path) for path in runs])
            print("No multirun looks at the test images: train what you choose on its own.")


def _row(path: Path) -> dict[str, str]:
    """What was given to a run, and how it ended."""
    words = OmegaConf.load(path.parent / ".hydra" / "overrides.yaml")
    given = dict(str(word).split("=", 1) for word in words if "=" in str(word))
    last = json.loads(path.read_text().splitlines()[-1])
    scores = {name: f"{value:.4f}" for name, value in last.items() if name.startswith("val/")}
    seconds = f"{last['time/train_seconds']:,.1f}"
    return {"run": path.parent.name, **given, **scores, "epochs": last["step"], "seconds": seconds}


def _show(rows: list[dict[str, str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    names = list(dict.fromkeys(name for row in rows for name in row))
    kept = [
        name
        for name in names
        if len({row.get(name) for row in rows}) > 1 or "/" in name or name == "seconds"
    ]
    for name in kept:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in kept))
    Console(markup=False).print(table)
