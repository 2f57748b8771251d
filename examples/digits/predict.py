"""Read drawn digits with the best model of all sweeps on MNIST:
python examples/digits/predict.py IMAGE..."""

import argparse
import csv
import os
import re
import sys
from pathlib import Path
from typing import Any

from hydrasweep import UserError, plain_exit

ROOT = Path(os.environ.get("HYDRASWEEP_ROOT") or Path(__file__).resolve().parents[2])
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")


def find_champion(model: str | None) -> Any:
    """The registered version that is champion: of one ``model``, or the one with the best score.

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


def predict(pixels: Any, model: str | None) -> tuple[Any, str]:
    """The probabilities (n, 10) that a champion gives to digits, uint8 (n, 1, 28, 28), and which.

    Raises:
        UserError: there is no champion, or MLflow fails.
    """
    import numpy as np

    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{ROOT}/mlflow.db")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else it waits for minutes
    try:
        import mlflow

        best = find_champion(model)
        logits = mlflow.pyfunc.load_model(f"models:/{best.name}/{best.version}").predict(pixels)
    except UserError:
        raise
    except Exception as error:
        told = re.sub(r"(?<=\w:)//\S*@", "//", f"{type(error).__name__}: {error}")  # no password
        raise UserError(f"MLflow gives no champion ({told.splitlines()[0]})") from error
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True), f"{best.name} v{best.version}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Read drawn digits with a sweep's champion.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="or a folder of them")
    parser.add_argument("--model", help="such as lenet5 (default: the one with the best score)")
    args = parser.parse_args()
    with plain_exit():
        import numpy as np

        import digits

        images, n_failed = {}, 0
        for place in args.images:
            inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
            for path in inside or [place]:
                try:
                    images[path] = digits.read(path)
                except UserError as error:
                    n_failed += 1
                    print(f"Error: {error}", file=sys.stderr)
        if images:
            shares, name = predict(np.stack(list(images.values()))[:, None], args.model)
            answers = list(zip(images, shares.argmax(1), shares.max(1), strict=True))
            if len(args.images) == 1 and args.images[0] in images:
                print(f"{answers[0][1]}  {100 * answers[0][2]:.1f} %  ({name})")
            else:
                print(f"Read by {name}", file=sys.stderr)
                rows = csv.writer(sys.stdout, lineterminator="\n")
                rows.writerow(["file", "digit", "probability"])
                rows.writerows((path, digit, f"{share:.4f}") for path, digit, share in answers)
    sys.exit(n_failed > 0)


if __name__ == "__main__":
    main()
