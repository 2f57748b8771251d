"""Read drawn digits with the best model of all sweeps on MNIST: python src/predict.py IMAGE..."""

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydrasweep import UserError, plain_exit
from mnist import recording
from mnist.text import root_cause, without_password

ROOT = Path(os.environ.get("HYDRASWEEP_ROOT") or Path(__file__).resolve().parents[1])


def find_champion(model: str | None) -> Any:
    """The champion among the versions of ``mnist-MODEL``, or of all the one with the best score.

    Raises:
        UserError: there is none, or their scores don't compare.
    """
    from mlflow import MlflowClient

    client, found = MlflowClient(), {}
    for each in client.search_registered_models("name LIKE 'mnist-%'"):
        name = each.name.removeprefix("mnist-")
        if "champion" in each.aliases and model in (None, name):
            found[name] = client.get_model_version_by_alias(each.name, "champion")
    if not found:
        wanted = f" model={model}" if model else ""
        raise UserError(
            f"no champion of data=mnist{wanted} in MLflow: "
            f"a sweep makes one: python src/train.py -m hparams_search=optuna{wanted}"
        )
    if len({version.tags.get("objective") for version in found.values()}) > 1:
        raise UserError(f"champions of different objectives: choose --model of {', '.join(found)}")
    return max(found.values(), key=lambda version: float(version.tags.get("score", "-inf")))


def predict(images: Sequence[Any], model: str | None) -> tuple[list[tuple[int, float]], str]:
    """For each image, uint8 (28, 28), the digit that a champion sees in it and its probability;
    and the champion's name.

    Raises:
        UserError: there is no champion, or MLflow fails.
    """
    import numpy as np

    recording.use_store(ROOT)
    try:
        import mlflow

        version = find_champion(model)
        champion = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
        logits = champion.predict(np.stack(images)[:, None])
    except UserError:
        raise
    except Exception as error:
        uri = without_password(os.environ["MLFLOW_TRACKING_URI"])
        raise UserError(f"no champion from MLflow at {uri} ({root_cause(error)})") from error
    odds = np.exp(logits - logits.max(1, keepdims=True))
    shares = odds / odds.sum(1, keepdims=True)
    answers = zip(shares.argmax(1).tolist(), shares.max(1).tolist(), strict=True)
    return list(answers), f"{version.name} v{version.version}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Read drawn digits with a sweep's champion.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="or a folder of them")
    parser.add_argument("--model", help="such as lenet5 (default: the one with the best score)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write there, as CSV")
    args = parser.parse_args()
    with plain_exit():
        if args.out and args.out.suffix != ".csv":
            raise UserError(f"--out={args.out}: must end with .csv")
        from mnist import digits

        paths, images = digits.find(args.images), {}
        for path in paths:
            try:
                images[path] = digits.read(path)
            except UserError as error:
                print(f"Error: {error}", file=sys.stderr)
        if images:
            answers, name = predict(list(images.values()), args.model)
            if paths == args.images[:1] and not args.out:
                print(f"{answers[0][0]}  {100 * answers[0][1]:.1f} %  ({name})")
            else:
                print(f"Read by {name}", file=sys.stderr)
                out = args.out.open("w", errors="surrogateescape") if args.out else None
                with out or nullcontext(sys.stdout) as file:
                    rows = csv.writer(file, lineterminator="\n")
                    rows.writerow(["file", "digit", "probability"])
                    for path, (digit, share) in zip(images, answers, strict=True):
                        rows.writerow([path, digit, f"{share:.4f}"])
    sys.exit(len(images) < len(paths))


if __name__ == "__main__":
    main()
