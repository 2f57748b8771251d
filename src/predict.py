"""Read drawn digits with the best model of all sweeps: python src/predict.py IMAGE..."""

import argparse
import csv
import io
import os
import sys
from pathlib import Path

os.environ.setdefault("HYDRASWEEP_ROOT", str(Path(__file__).resolve().parents[1]))

from mnist import cli
from mnist.errors import UserError


def predict(paths: list[Path], data: str, model: str | None) -> list[tuple[Path, int, float]]:
    """Each picture's digit and its probability; of one that can't be read stderr says why.

    Raises:
        UserError: there is no champion, or it can't be loaded.
    """
    from mnist import digits

    images = {}
    for path in paths:
        try:
            images[path] = digits.read(path)
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
    if not images:
        return []
    import numpy as np
    import torch

    from mnist import registry
    from mnist.store import open_store

    store = open_store(Path(os.environ["HYDRASWEEP_ROOT"]))
    version = registry.champion(store, data, model)
    champion = registry.load(store, version, (1, digits.SIZE, digits.SIZE))
    pixels = torch.from_numpy(np.stack(list(images.values()))).unsqueeze(1)
    with torch.inference_mode():
        logits = torch.cat([champion(batch) for batch in pixels.split(1000)])
    probabilities, guesses = logits.softmax(1).max(1)
    return list(zip(images, guesses.tolist(), probabilities.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Read drawn digits with a sweep's champion.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="or a folder of them")
    parser.add_argument("--model", help="architecture (default: the one with the best score)")
    parser.add_argument("--data", default="mnist", help="what it was trained on (default: mnist)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write there, as CSV")
    args = parser.parse_args()
    with cli.plain_exit():
        if args.out and args.out.suffix != ".csv":
            raise UserError(f"--out={args.out}: must end with .csv")
        from mnist import digits

        paths = digits.find(args.images)
        answers = predict(paths, args.data, args.model)
        text = io.StringIO()
        if paths == args.images[:1] and not args.out:
            text.writelines(f"{digit}  {100 * share:.1f} %\n" for _, digit, share in answers)
        else:
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(["file", "digit", "probability"])
            rows.writerows((path, digit, f"{share:.4f}") for path, digit, share in answers)
        stdout = os.fdopen(sys.stdout.fileno(), "wb", closefd=False)
        try:
            with args.out.open("wb") if args.out else stdout as file:
                file.write(os.fsencode(text.getvalue()))  # the name of a file need not be text
        except OSError as error:
            raise UserError(f"{args.out or 'stdout'} can't be written: {error.strerror}") from error
    sys.exit(len(answers) < len(paths))


if __name__ == "__main__":
    main()
