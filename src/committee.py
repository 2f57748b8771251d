"""Let the winners of a sweep vote: python src/committee.py outputs/sweeps/NAME

The voters are the models of all seeds on which winners were confirmed. Which architectures vote is
chosen on the validation images; the choice is scored on the test images, once, and registered in
MLflow as NAME-committee, NAME being that of the data.
"""

import argparse
import os
from pathlib import Path

import hydrasweep
from hydrasweep import UserError
from mnist import store

ROOT = Path(os.environ.get("HYDRASWEEP_ROOT") or Path(__file__).resolve().parents[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="its folder, or its name")
    sweep = hydrasweep.load(parser.parse_args().sweep)
    finals = sweep.trials.query("phase == 'final' and state == 'COMPLETE'")
    if finals.empty:
        raise UserError(f"{sweep.folder}: no winner has come to its final training")

    import mlflow

    from mnist import committee
    from mnist.config import build

    loaded = [
        committee.load_member(row["model"], sweep.folder / row["folder"])
        for _, row in finals.iterrows()
    ]
    members, cfg = [member for member, _ in loaded], loaded[0][1]
    data = build(cfg.data)
    _, val = data.development()
    chosen, told = committee.choose(members, val)
    for name, score in told.items():
        print(f"val  {score:8.2%}  {name}")
    model = committee.Committee([member.model for member in chosen]).eval()
    test = data.test()
    votes = committee.outputs(model, test)
    singles = finals.groupby("model")["test/accuracy"].agg(["mean", "std", "count"])
    for name, row in singles.iterrows():
        print(f"test {row['mean']:8.2%}  {name} alone (± {row['std']:.2%}, n={row['count']:.0f})")
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    scores = {
        "val/accuracy": max(told.values()),
        "test/accuracy": committee.accuracy(votes, test),
        "n_parameters": float(n_parameters),
        "time/milliseconds_per_image": committee.milliseconds(model, test),
    }
    names = " + ".join(dict.fromkeys(member.architecture for member in chosen))
    print(
        f"test {scores['test/accuracy']:8.2%}  committee of {len(chosen)}: {names} "
        f"({n_parameters:,} parameters, {scores['time/milliseconds_per_image']:.2f} ms an image)"
    )
    store.use(ROOT)
    mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
    tags = {
        "study": sweep.name,
        "members": names,
        "score": str(scores["val/accuracy"]),
        "objective": "val/accuracy",
        "direction": "maximize",
        "n_val": str(cfg.data.n_val),
        "split_seed": str(cfg.data.split_seed),
    }
    name = f"{cfg.data.name}-committee"
    became = committee.register(mlflow, model, name, data.first(2).inputs, scores, tags)
    print(f"Registered model {name}: {became}")


if __name__ == "__main__":
    with hydrasweep.plain_exit():
        main()
