"""Make a sweep's report again, or compare sweeps: python src/report.py --help"""

import os
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

os.environ.setdefault("HYDRASWEEP_ROOT", str(Path(__file__).resolve().parents[1]))

from mnist import cli
from mnist.errors import UserError

CONF = Path(__file__).resolve().parents[1] / "conf"
HELP = """\
Write the report of a sweep, finished or running, as one HTML file.

  python src/report.py study=NAME    outputs/sweeps/NAME/report.html
  python src/report.py study=A,B     outputs/sweeps/compare-A-B.html: both on the same axes

Other words are settings as src/train.py takes them, such as paths.outputs=DIR."""


def folders(words: list[str]) -> list[Path]:
    """The folders of the studies that a command line names.

    Raises:
        UserError: it names none, or one that there isn't.
    """
    named = [word.removeprefix("study=") for word in words if word.startswith("study=")]
    others = [word for word in words if not word.startswith("study=")]
    with initialize_config_dir(str(CONF)):
        cfg = compose("train", overrides=others)
        sweeps = Path(str(OmegaConf.select(cfg, "paths.outputs"))) / "sweeps"
    known = sorted(path.parent.name for path in sweeps.glob("*/results.yaml"))
    names = list(dict.fromkeys(name for text in named for name in text.split(",")))
    for name in names or [""]:
        if name not in {path.name for path in sweeps.glob("*/")}:
            there_are = f"there are {', '.join(known)}" if known else "there is none yet"
            raise UserError(f"study={name}: no such sweep in {sweeps}; {there_are}")
    return [sweeps / name for name in names]


def main() -> None:
    with cli.plain_exit():
        if {"-h", "--help"} & set(sys.argv):
            print(HELP)
            return
        found = folders(sys.argv[1:])
        from hydrasweep import report

        print(report.write(found[0]) if len(found) == 1 else report.compare(found))


if __name__ == "__main__":
    main()
