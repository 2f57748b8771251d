"""The recipes that ``hparams_search=accuracy`` found, on fresh seeds, and what all get wrong.

python tests/benchmarks/recipes.py [FOLDER] trains experiment=best_* on five seeds that no search
has seen, two at a time with one core each, and continues where it was interrupted. It writes
recipes.json and draws the pictures of docs/mnist.md. With BENCHMARKS_SMALLEST=1 in the
environment it trains next to nothing and writes all files into FOLDER.
"""

import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import HERE, ROOT, SMALLEST, machine, python, size
from matplotlib.figure import Figure

from mnist import committee
from mnist.config import build
from mnist.figures import draw_images

SEEDS = size((101, 102, 103, 104, 105), (101, 102))
TINY = ("epochs=1", "data.n_train=600", "data.n_val=200", "tracking=none")
PATTERN = size("best_*.yaml", "best_lenet5.yaml")
NAMES = tuple(sorted(path.stem for path in (ROOT / "conf" / "experiment").glob(PATTERN)))


def train(folder: Path, name: str, seed: int) -> None:
    """One run of a recipe, or the rest of one."""
    if (folder / "model.pt").exists():
        return
    if (folder / "last.pt").exists():
        words = [f"resume={folder}"]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        words = [f"experiment={name}", f"seed={seed}", "n_threads=1", f"hydra.run.dir={folder}"]
        words += size((), TINY)
    python("src/train.py", *words)
    (folder / "last.pt").unlink()
    print(f"{folder.name}: {epochs(folder)[-1]['val/accuracy']:.2%} on validation", flush=True)


def epochs(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def results(name: str, folders: Sequence[Path]) -> tuple[dict[str, Any], torch.Tensor]:
    """What a recipe's runs reached; and which test images each got right (n_runs, n_images)."""
    members, cfg = committee.load_members(folders)
    test, history = build(cfg).test(), [epochs(folder) for folder in folders]
    right = torch.stack([committee.outputs(m.model, test).argmax(1) for m in members])
    right = right == test.targets
    return {
        "recipe": name,
        "n_parameters": sum(p.numel() for p in members[0].model.parameters()),
        "epochs": len(history[0]),
        "minutes": statistics.median(run[-1]["time/train_seconds"] / 60 for run in history),
        "val": [run[-1]["val/accuracy"] for run in history],
        "test": right.float().mean(1).tolist(),
        "curve": [
            statistics.fmean(run[i]["val/accuracy"] for run in history)
            for i in range(len(history[0]))
        ],
    }, right


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        errors = [100 * (1 - accuracy) for accuracy in row["curve"]]
        minutes = [row["minutes"] * (i + 1) / len(errors) for i in range(len(errors))]
        axes.plot(minutes, errors, label=row["recipe"])
    axes.set(yscale="log", xlabel="minutes of training on one core")
    axes.set_ylabel("validation error, %, mean of five seeds")
    ticks = (0.3, 0.5, 1, 2, 5, 10)
    axes.set_yticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def draw_wrong(cfg: Any, folders: Sequence[Path], right: torch.Tensor, path: Path) -> int:
    """Draw the test images that no run of any recipe got right; return their number."""
    test = build(cfg).test()
    members, _ = committee.load_members(folders)
    wrong = torch.nonzero(~right.any(0)).flatten()
    drawn = wrong[: size(100, 9)]
    images, labels = test.inputs[drawn], test.targets[drawn].tolist()
    with torch.inference_mode():
        votes = committee.Committee([member.model for member in members]).eval()(images).argmax(1)
    captions = [f"{label} > {vote}" for label, vote in zip(labels, votes.tolist(), strict=True)]
    draw_images(images, captions, "label > what most say", path)
    return len(wrong)


def main(outputs: Path) -> None:
    pairs = [(name, seed) for seed in SEEDS for name in NAMES]
    folders = {pair: outputs / f"{pair[0]}-{pair[1]}" for pair in pairs}
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(train, folders[pair], *pair) for pair in pairs]:
            done.result()
    of = {name: [folders[name, seed] for seed in SEEDS] for name in NAMES}
    rows, right = zip(*(results(name, each) for name, each in of.items()), strict=True)
    _, cfg = committee.load_members(of[NAMES[0]])
    tables, pictures = (outputs, outputs) if SMALLEST else (HERE, ROOT / "docs")
    all_folders = [*folders.values()]
    n_wrong = draw_wrong(cfg, all_folders, torch.cat(right), pictures / "mnist_wrong.png")
    draw_curves(rows, pictures / "mnist_curves.png")
    found = {"machine": machine(), "seeds": SEEDS, "wrong_in_all": n_wrong, "recipes": rows}
    (tables / "recipes.json").write_text(json.dumps(found, indent=1) + "\n")
    for row in rows:
        means = {part: statistics.fmean(row[part]) for part in ("val", "test")}
        print(
            f"{row['recipe']:14} {row['n_parameters']:9,} {row['epochs']:3} epochs "
            f"{row['minutes']:5.1f} min  val {means['val']:.2%}  test {means['test']:.2%} "
            f"± {statistics.stdev(row['test']):.2%}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else os.fspath(ROOT / "outputs" / "recipes")))
