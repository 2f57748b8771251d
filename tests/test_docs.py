"""The documents: the site builds, what they show works, and every refusal is in them."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from examples.foreign import Project
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from omegaconf import OmegaConf

from hydrasweep.settings import SweeperConf

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path.read_text() for path in sorted(REPOSITORY.glob("docs/*.md"))}
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\n]*)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = [(page, *found) for page, text in PAGES.items() for found in FENCE.findall(text)]
# What nothing here can run says why in its title; examples/test_template.py runs own_project.md.
SHELL = [
    line.partition("  #")[0].rstrip()
    for page, language, title, text in BLOCKS
    if language in ("sh", "") and not title.startswith(("Needs", "Serves"))
    for line in text.splitlines()
    if language or line.startswith("python src/train.py ")
]
TRAINING = [line for line in SHELL if line.startswith("python src/train.py ")]
OWN_APP = [line for line in SHELL if line.startswith("python app.py")]


def blocks(language: str) -> list[Any]:
    found = [pytest.param(text, id=page) for page, given, _, text in BLOCKS if given == language]
    assert found
    return found


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_config_can_be_read(text: str) -> None:
    assert OmegaConf.create(text)


@pytest.mark.parametrize("text", blocks("python"))
def test_every_piece_of_code_can_be_read(text: str) -> None:
    assert ast.parse(text).body


def test_every_command_is_tried_or_says_what_it_needs() -> None:
    assert len(TRAINING) > 10
    assert len(OWN_APP) > 5
    assert not {*SHELL} - {*TRAINING, *OWN_APP}


def first_value(override: Override) -> str:
    """An override as it stands, of a sweep with its first value."""
    if not override.is_sweep_override():
        return str(override.input_line)
    value = override.value()
    is_choice = isinstance(value, ChoiceSweep)
    return f"{override.key_or_group}={value.list[0] if is_choice else value.start}"


@pytest.mark.parametrize("line", dict.fromkeys(TRAINING))
def test_every_training_command_composes(line: str) -> None:
    words = [word for word in shlex.split(line)[2:] if word != "-m"]
    given = OverridesParser.create().parse_overrides(words)
    with initialize_config_dir(str(REPOSITORY / "conf")):
        config = compose("train", list(map(first_value, given)), return_hydra_config=True)
    is_sweep = str(config.hydra.sweeper._target_).startswith("hydrasweep.")
    assert is_sweep == ("hparams_search" in line)
    assert not is_sweep or "-m" in line


def titled(name: str) -> str:
    (text,) = (text for _, _, title, text in BLOCKS if title == name)
    return str(text)


@pytest.mark.slow
def test_getting_started_does_as_it_says(tmp_path: Path) -> None:
    for name in ("app.py", "config.yaml"):
        (tmp_path / name).write_text(titled(name))
    app = Project(tmp_path)
    printed = {line: app.run(*shlex.split(line)[2:]) for line in OWN_APP}
    plan, end = (
        text.splitlines() for page, language, _, text in BLOCKS
        if (page, language) == ("getting_started", "text")
    )  # fmt: skip
    told = printed["python app.py -m hydra.sweeper.dry_run=true"].splitlines()
    assert told[0] == plan[0]
    assert [line for line in plan if line not in told] == [line for line in plan if "/home" in line]
    told = printed["python app.py -m"].splitlines()
    assert {line for line in end if not re.search(r"[\d…]", line)} <= {*told}


def test_every_page_is_in_the_navigation() -> None:
    nav = tomllib.loads((REPOSITORY / "zensical.toml").read_text())["project"]["nav"]
    assert {*PAGES} == {Path(file).stem for entry in nav for file in entry.values()}


class Page(HTMLParser):
    """The anchors of a page, and what it leads to or loads, by tags."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.anchors.add(str(value))
            elif name in ("href", "src"):
                self.links.append((tag, str(value)))


def test_the_site_builds_and_no_link_of_it_is_broken(tmp_path: Path) -> None:
    for name in ("docs", "conf"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    for name in ("zensical.toml", "tests/benchmarks/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=tmp_path, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    site = tmp_path / "site"
    pages = {path: Page(path) for path in site.rglob("index.html")}
    assert len(pages) == len(PAGES)
    for path, page in pages.items():
        for tag, link in page.links:
            if "://" in link:
                assert tag == "a", f"{path} loads {link}"
                continue
            target, anchor = urldefrag(unquote(link))
            found = (path.parent / target).resolve() if target else path
            found = found / "index.html" if found.is_dir() else found
            assert found.exists(), f"{path}: {link}"
            assert not anchor or anchor in pages[found].anchors, f"{path}: {link}"
    fields = {*OmegaConf.structured(SweeperConf)} - {"_target_", "defaults"}
    assert fields <= pages[site / "settings" / "index.html"].anchors


def literal(node: ast.AST) -> str:
    """The longest part of a message that is the same each time."""
    parts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return max((part.strip() for part in parts if isinstance(part, str)), key=len, default="")


def refusals() -> list[str]:
    """What is the same each time in every sentence that refuses something."""
    found = set()
    for path in (REPOSITORY / "src").rglob("*.py"):
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        calls = (node for node in nodes if isinstance(node, ast.Call))
        found |= {literal(c) for c in calls if ast.unparse(c.func) in ("UserError", "Outage")}
        if path.name == "slips.py":
            told = (node.value for node in nodes if isinstance(node, ast.Return) and node.value)
            found |= {literal(value) for value in told if not isinstance(value, ast.Attribute)}
    return sorted(each for each in found if len(each) > 5)


@pytest.mark.parametrize("words", refusals())
def test_every_refusal_is_explained(words: str) -> None:
    assert words in PAGES["troubleshooting"]
