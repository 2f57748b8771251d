"""What is done with sweeps that are there: python -m hydrasweep --help"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydrasweep.errors import UserError, plain_exit

NAME = "a sweep's folder, or its name if it is below the current folder"


def main() -> None:
    """Run the command line."""
    arguments = _parser().parse_args()
    with plain_exit():
        try:
            resumed = arguments.verb(arguments)
            sys.stdout.flush()
        except BrokenPipeError:  # of `show first | head`: who reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    if resumed:  # as if it had been typed, with its own signals and exit code
        cwd, words = resumed
        os.chdir(cwd)
        os.execv(sys.executable, [sys.executable, *words])


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m hydrasweep",
        description="List, show, compare, export, resume and delete sweeps, finished or running.",
        epilog="python -m hydrasweep VERB --help tells more, with an example.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(verb: Callable[[Namespace], object], about: str, example: str) -> ArgumentParser:
        name = verb.__name__.strip("_")
        added = verbs.add_parser(
            name,
            help=about.partition(".")[0].partition(":")[0],
            description=about,
            epilog=f"Example: python -m hydrasweep {name} {example}",
        )
        added.set_defaults(verb=verb)
        return added

    added = add(_list, "List the sweeps below a folder, the latest last.", "outputs")
    added.add_argument(
        "folder", nargs="?", type=Path, default=Path(), help="the current one by default"
    )
    added = add(_show, "Show what a sweep prints at its end, or would print now.", "first")
    added.add_argument("name", help=NAME)
    added = add(
        _report,
        "Write a sweep's report: report.html in its folder; of several sweeps, a page that "
        "compares them, beside the first one's folder.",
        "first --watch",
    )
    added.add_argument("name", nargs="+", help=NAME)
    added.add_argument(
        "--watch",
        action="store_true",
        help="keep the report fresh while the sweep runs; its page reloads itself",
    )
    added = add(
        _resume,
        "Resume a sweep: run the command that started it, where it was run.",
        "first hydra.sweeper.n_trials=90",
    )
    added.add_argument("name", help=NAME)
    added.add_argument("override", nargs="*", help="take the place of the command's, or are added")
    added = add(_compare, "Compare two sweeps: settings and results that differ.", "first second")
    added.add_argument("first", metavar="A", help=NAME)
    added.add_argument("second", metavar="B", help="the other")
    added = add(
        _export,
        "Export all trials of a sweep: phase, state, values, settings, seconds and recorded "
        "numbers, a row for each.",
        "first --csv trials.csv",
    )
    added.add_argument("name", help=NAME)
    kind = added.add_mutually_exclusive_group(required=True)
    kind.add_argument("--csv", metavar="FILE", type=Path)
    kind.add_argument("--parquet", metavar="FILE", type=Path, help="needs pandas and pyarrow")
    added = add(
        _delete,
        "Delete a sweep: its folder, its studies and its runs in MLflow. It says what goes, and "
        "asks.",
        "first",
    )
    added.add_argument("name", help=NAME)
    added.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _list(arguments: Namespace) -> None:
    from hydrasweep.folders import listing

    if not arguments.folder.is_dir():
        raise UserError(f"{arguments.folder}: is no folder")
    print(listing(arguments.folder))


def _show(arguments: Namespace) -> None:
    from hydrasweep.loaded import load

    print(load(arguments.name).summary())


def _report(arguments: Namespace) -> None:
    from hydrasweep.folders import find

    found = [find(name) for name in arguments.name]
    with _reading():
        from hydrasweep.watch import watch, write

        print(watch(found) if arguments.watch else write(found))


def _resume(arguments: Namespace) -> tuple[str, list[str]]:
    from hydrasweep.folders import find
    from hydrasweep.starts import resuming

    return resuming(find(arguments.name), arguments.override)


def _compare(arguments: Namespace) -> None:
    from hydrasweep.folders import find

    found = [find(name) for name in (arguments.first, arguments.second)]
    with _reading():
        from hydrasweep import page
        from hydrasweep.differences import compare

        print(compare(*map(page.read, found)))


def _export(arguments: Namespace) -> None:
    from hydrasweep import files
    from hydrasweep.loaded import load

    sweep = load(arguments.name)
    if arguments.csv:
        files.write(arguments.csv, sweep.csv())
    else:
        sweep.write_parquet(arguments.parquet)
    print(arguments.csv or arguments.parquet)


def _delete(arguments: Namespace) -> None:
    from hydrasweep.folders import find

    found = find(arguments.name)
    with _reading():
        from hydrasweep.removal import Removal

        removal = Removal.of(found)
        print(removal)
        if arguments.yes or _agrees():
            removal.execute()
            print("Deleted.")
        else:
            print("Nothing was deleted.")


def _agrees() -> bool:
    try:
        return input("Delete? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError as error:
        raise UserError("nobody answers: --yes deletes without asking") from error


@contextmanager
def _reading() -> Iterator[None]:
    """Reads sweeps: without Optuna's messages, and with storages closed at the end."""
    import optuna

    from hydrasweep import storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        storage.close_storages()


if __name__ == "__main__":
    main()
