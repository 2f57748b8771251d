"""The starts of a sweep, each in a file of its own in the sweep's folder: which process it is, the
command that resumes it, and how it ended.

Whoever asks how a sweep stands needs no storage for that, and nothing heavy.
"""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydrasweep import files
from hydrasweep.errors import Outage, UserError, root_cause
from hydrasweep.liveness import identity, is_dead, is_here

CLAIM = ".study"  # the file that makes a folder a sweep's: it holds its study's id
FOLDER = ".starts"
RUNNING, FINISHED, STOPPED, INTERRUPTED, KILLED = (
    "running", "finished", "stopped", "interrupted", "killed",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """One start of a sweep; times are in seconds since the epoch."""

    study: str
    command: str  # that resumes it
    cwd: str  # where it was given
    folder: str  # the sweep's, at that time
    process: Mapping[str, str]
    began: float
    ended: float | None = None
    how: str = KILLED  # as long as it has not ended
    why: str = ""

    @property
    def may_run(self) -> bool:
        """Whether its process lives, or is another machine's and has not ended."""
        return self.ended is None and not is_dead(self.process)


@contextmanager
def recorded(folder: Path, n: int, study: str, command: str) -> Iterator[None]:
    """Keep the ``n``-th start of a sweep in its folder, and how it ends."""
    path = folder / FOLDER / f"{n:03d}.json"
    path.parent.mkdir(exist_ok=True)
    start = Start(study, command, str(Path.cwd()), str(folder.resolve()), identity(), time.time())
    _write(path, start)
    how, why = FINISHED, ""
    try:
        yield
    except Exception as error:
        how, why = STOPPED, str(error) if isinstance(error, UserError) else root_cause(error)
        raise
    except BaseException:
        how = INTERRUPTED
        raise
    finally:
        with suppress(Outage):  # the sweep has ended as it has, also on a full disk
            _write(path, replace(start, ended=time.time(), how=how, why=why))


def _write(path: Path, start: Start) -> None:
    files.write(path, json.dumps(asdict(start), indent=1))


def read(folder: Path) -> list[Start]:
    """The starts of the sweep in a folder, in their order."""
    return [
        Start(**json.loads(path.read_text())) for path in sorted((folder / FOLDER).glob("*.json"))
    ]


def last(folder: Path) -> Start | None:
    """The start that runs or, where none does, the one that ended last."""
    starts = read(folder)
    return max(starts, key=lambda s: (s.may_run, s.ended or s.began), default=None)


def state(start: Start | None) -> str:
    """How a sweep stands, by its last start, in a word or two."""
    if start is None:
        return "unknown"
    if not start.may_run:
        return start.how
    return RUNNING if is_here(start.process) else f"{RUNNING} on {start.process['host']}?"


def original(folder: Path) -> Path | None:
    """The folder of which this one is a copy: where its sweep ran, if that has the sweep too."""
    start = last(folder)
    if start is None or (ran := Path(start.folder)) == folder.resolve():
        return None
    claim = ran / CLAIM
    is_there = claim.exists() and claim.read_bytes() == (folder / CLAIM).read_bytes()
    return ran if is_there else None


def processes(folder: Path) -> list[str]:
    """The processes, in words, that are the sweep, or may be."""
    return [in_words(start.process) for start in read(folder) if start.may_run]


def in_words(process: Mapping[str, str]) -> str:
    """A process as a person finds it."""
    where = "" if is_here(process) else f" on {process['host']}"
    return f"process {process['pid']}{where}"


def resuming(folder: Path, overrides: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Where to run Python, and its arguments, to resume the sweep in a folder; ``overrides`` take
    the place of those for the same settings, or are added.

    Raises:
        UserError: it runs on this machine, or has been moved, or is none.
    """
    if not (starts := read(folder)):
        raise UserError(f"{folder}: has no sweep whose command is known")
    for start in starts:
        if start.may_run and is_here(start.process):
            raise UserError(f"{folder}: its sweep is running ({in_words(start.process)})")
    start = starts[-1]
    if Path(start.folder) != folder.resolve():
        raise UserError(
            f"{folder}: is not where its sweep ran, {start.folder}, and where its command would "
            "have it again: move it back"
        )
    given = {word.partition("=")[0] for word in overrides}
    _, *words = shlex.split(start.command)
    return start.cwd, [*(w for w in words if w.partition("=")[0] not in given), *overrides]
