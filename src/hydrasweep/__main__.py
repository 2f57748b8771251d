"""Write the report of a sweep, or of several side by side: python -m hydrasweep --help"""

import argparse
from pathlib import Path

from hydrasweep import plain_exit


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hydrasweep",
        description="Write the report of a sweep, finished or running, as report.html into its "
        "folder; of several, a page that compares them, beside the first one's folder.",
    )
    parser.add_argument("folder", nargs="+", type=Path, help="a sweep's hydra.sweep.dir")
    folders = parser.parse_args().folder
    with plain_exit():
        import optuna

        from hydrasweep import page, storage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            print(page.write(folders[0]) if len(folders) == 1 else page.compare(folders))
        finally:
            storage.close_storages()


if __name__ == "__main__":
    main()
