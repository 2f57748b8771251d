"""Let trained models vote.

  python src/committee.py outputs/sweeps/NAME    the winners of a sweep, on all their seeds
  python src/committee.py RUN_FOLDER ...         single runs

Which architectures vote is chosen on the validation images; the choice is scored on the test
images, once, and registered in MLflow as NAME-committee, NAME being that of the data.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import hydrasweep
from hydrasweep import UserError
from mnist import store

ROOT = Path(os.environ.get("HYDRASWEEP_ROOT") or Path(__file__).resolve().parents[1])


def runs(name: str) -> Iterator[Path]:
    """The folders of the models of ``name``: that run, or a sweep's winners."""
    if (Path(name) / "config.yaml").exists():
        yield Path(name)
        return
    sweep = hydrasweep.load(name)
    finals = sweep.trials.query("phase == 'final' and state == 'COMPLETE'")
    if finals.empty:
        raise UserError(f"{sweep.folder}: no winner has come to its final training")
    yield from (sweep.folder / folder for folder in finals["folder"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="a sweep's name or folder, or a run's folder"
    )
    names = parser.parse_args().names
    folders = [folder for name in names for folder in runs(name)]

    import mlflow
    import pandas as pd

    from mnist import committee
    from mnist.config import build

    members, cfg = committee.load_members(folders)
    data = build(cfg)
    _, val = data.development()
    chosen, told = committee.choose(members, val)
    for architectures, score in told.items():
        print(f"val  {score:8.2%}  {architectures}")
    model = committee.Committee([member.model for member in chosen]).eval()
    test = data.test()
    alone = pd.DataFrame(
        [(each.architecture, committee.score(each.model, test)) for each in members],
        columns=["architecture", "accuracy"],
    ).groupby("architecture", sort=False)["accuracy"]
    for architecture, (mean, sd, n) in alone.agg(["mean", "std", "count"]).iterrows():
        spread = f" (± {sd:.2%}, n={n:.0f})" if n > 1 else ""
        print(f"test {mean:8.2%}  {architecture} alone{spread}")
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    scores = {
        "val/accuracy": max(told.values()),
        "test/accuracy": committee.score(model, test),
        "n_parameters": float(n_parameters),
        "time/milliseconds_per_image": committee.milliseconds(model, test),
    }
    voters = " + ".join(dict.fromkeys(member.architecture for member in chosen))
    print(
        f"test {scores['test/accuracy']:8.2%}  committee of {len(chosen)}: {voters} "
        f"({n_parameters:,} parameters, {scores['time/milliseconds_per_image']:.2f} ms an image)"
    )
    store.use(ROOT)
    mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
    tags = {
        "members": voters,
        "runs": ", ".join(names),
        "score": str(scores["val/accuracy"]),
        "objective": "val/accuracy",
        "direction": "maximize",
        "n_val": str(cfg.n_val),
        "split_seed": str(cfg.split_seed),
    }
    name = f"{cfg.name}-committee"
    became = committee.register(mlflow, model, name, data.first(2).inputs, scores, tags)
    print(f"Registered model {name}: {became}")


if __name__ == "__main__":
    with hydrasweep.plain_exit():
        main()
