"""The code blocks and commands of the README and of the pages in docs/."""

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path.read_text() for path in sorted(REPOSITORY.glob("docs/*.md"))}
README = (REPOSITORY / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\n]*)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# How the titles of blocks begin whose commands tests cannot run. Some of them need only a sweep.
UNTESTED, NEEDS_SWEEP = ("Needs", "Serves"), "Needs a finished sweep"


@dataclass(frozen=True)
class Block:
    """A block of code; ``page`` is "README" or the name of a file in docs/."""

    page: str
    language: str
    title: str
    text: str


BLOCKS = [
    Block(page, *found)
    for page, text in {"README": README, **PAGES}.items()
    for found in FENCE.findall(text)
]


def text_of(page: str, language: str) -> str:
    """The text of the only block of that language on a page."""
    (text,) = (each.text for each in BLOCKS if (each.page, each.language) == (page, language))
    return text


def commands() -> list[str]:
    """All commands that tests can run, without comments, each once."""
    lines = [
        line.partition("  #")[0].rstrip()
        for each in BLOCKS
        if each.language in ("sh", "")
        and (each.title == NEEDS_SWEEP or not each.title.startswith(UNTESTED))
        for line in each.text.splitlines()
        if each.language or line.startswith(("python ", "mlflow "))
    ]
    return list(dict.fromkeys(lines))


def commands_of(*programs: str) -> list[str]:
    return [line for line in commands() if line.startswith(programs)]


INSTALL = commands_of("python -m pip install")  # the README's, with what follows `&&`
TRAIN = [line.rpartition(" && ")[2] for line in (INSTALL[0], *commands_of("python src/train.py"))]
OWN_APP = commands_of("python app.py")
OTHERS = commands_of(
    "python -m hydrasweep", "python src/committee.py", "python src/show_data.py", "python examples/"
)
