"""The documents: the site builds, its links work, and so do the configs and commands in it.

Commands of the application are run in tests/mnist/test_commands.py, those of docs/own_project.md
in tests/examples/test_template.py.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import apps
import pytest
from documents import BLOCKS, INSTALL, OTHERS, OWN_APP, PAGES, REPOSITORY, TRAIN
from documents import commands as all_commands
from examples.foreign import Project
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from hydrasweep.settings import SweeperConf, check_settings

CONF = REPOSITORY / "conf"
# test_template.py applies the one of own_project.md to the project that the page describes.
CONFIGS = [each for each in BLOCKS if each.language == "yaml" and each.page != "own_project"]


def test_every_command_is_run_by_a_test_or_says_what_it_needs():
    assert len(TRAIN) > 15
    assert len(OTHERS) > 10
    serve = "mlflow ui --host 127.0.0.1"
    assert {*all_commands()} - {*INSTALL, *TRAIN, *OTHERS, *OWN_APP} == {serve}


def first_value(override):
    """The override itself, or the first value of one that searches."""
    if not override.is_sweep_override():
        return str(override.input_line)
    value = override.value()
    first = value.list[0] if isinstance(value, ChoiceSweep) else value.start
    return f"{override.key_or_group}={first}"


@pytest.mark.parametrize("line", [line for line in TRAIN if "--config-dir" not in line])
def test_every_training_command_composes_with_the_first_values_of_its_space(line):
    words = [word for word in shlex.split(line)[2:] if word != "-m"]
    overrides = OverridesParser.create().parse_overrides(words)
    with initialize_config_dir(str(CONF)):
        config = compose("train", list(map(first_value, overrides)), return_hydra_config=True)
    is_sweep = config.hydra.sweeper._target_.startswith("hydrasweep.")
    assert is_sweep == ("hparams_search" in line)
    assert not is_sweep or "-m" in line


def composed(block, folder):
    """The application's config with a file that contains the block, or an app's config."""
    if block.page == "application":
        group = "hparams_search" if "_global_" in block.text else "model"
        (folder / group).mkdir()
        (folder / group / "mine.yaml").write_text(block.text)
        words = [f"hydra.searchpath=[file://{folder}]", f"{group}=mine"]
        with initialize_config_dir(str(CONF)):
            return compose("train", words, return_hydra_config=True)
    text = block.text
    if "defaults:" not in text:
        text = f"defaults: [override hydra/sweeper: hydrasweep, _self_]\n{text}"
    (folder / "config.yaml").write_text(text)
    with initialize_config_dir(str(folder)):
        return compose("config", ["++seed=0"], return_hydra_config=True)


def settings_of(config, prefix=""):
    """The values in a config by their full keys, interpolations as they are written."""
    found = {}
    for key, value in OmegaConf.to_container(config, resolve=False).items():
        if isinstance(value, dict) and value:
            found |= settings_of(OmegaConf.create(value), f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


@pytest.mark.parametrize("block", CONFIGS, ids=lambda block: block.page)
def test_every_config_composes_and_sets_what_it_says(block, tmp_path):
    if block.page == "from_hydra_optuna_sweeper":  # the line that has to go
        with pytest.raises(ConfigCompositionException, match=re.escape("hydra.sweeper._target_")):
            composed(block, tmp_path)
        return
    config = composed(block, tmp_path)
    wanted = OmegaConf.create(block.text)
    wanted.pop("defaults", None)
    prefix = "model." if "MyModel" in block.text else ""
    assert settings_of(wanted, prefix).items() <= settings_of(config).items()
    if not prefix:
        assert config.hydra.sweeper._target_.startswith("hydrasweep.")
        check_settings(config.hydra.sweeper, config)


@pytest.mark.slow
def test_getting_started_does_as_it_says(tmp_path):
    page = [each for each in BLOCKS if each.page == "getting_started"]
    for block in page:
        if block.title in ("app.py", "config.yaml"):
            (tmp_path / block.title).write_text(block.text)
    app, printed = Project(tmp_path), {}
    for line in OWN_APP:
        _, _, *words = shlex.split(line)
        if words[:1] == ["-m"]:
            sweep = apps.run(tmp_path, tuple(words[1:]))
            assert sweep.code == 0, sweep.err
            printed[line] = sweep.out.splitlines()
        else:
            printed[line] = app.run(*words).splitlines()
    plan, end = (block.text.splitlines() for block in page if block.language == "text")
    shown = printed["python app.py -m hydra.sweeper.dry_run=true"]
    assert shown[0] == plan[0]
    assert [line for line in plan if line not in shown] == [
        line for line in plan if "/home" in line
    ]
    # The width of a table's columns depends on the values in them.
    end_shown = {" ".join(line.split()).strip("─") for line in printed["python app.py -m"]}
    documented = {" ".join(line.split()).strip("─") for line in end}
    assert {line for line in documented if not re.search(r"[\d…]", line)} <= end_shown
    # The study can be opened with Optuna, as the page about results shows.
    (read,) = (e.text for e in BLOCKS if (e.page, e.language) == ("results", "python"))
    assert "'lr'" in app.run(read, app="-c")


def test_every_page_is_in_the_navigation():
    nav = tomllib.loads((REPOSITORY / "zensical.toml").read_text())["project"]["nav"]
    assert {*PAGES} == {Path(file).stem for entry in nav for file in entry.values()}


class Page(HTMLParser):
    """The anchors of a page, its links and what it loads, by tags, and its inline code."""

    def __init__(self, path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.code: list[str] = []
        self.is_code = False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.is_code = tag == "code"
        for name, value in attrs:
            if name == "id":
                self.anchors.add(str(value))
            elif name in ("href", "src"):
                self.links.append((tag, str(value)))

    def handle_endtag(self, tag):
        del tag
        self.is_code = False

    def handle_data(self, data):
        if self.is_code:
            self.code.append(data)


@pytest.fixture(scope="module")
def macros():
    """docs/macros.py, which is not on the path of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "docs"))
        import macros

        return macros


def test_the_site_builds_and_no_link_of_it_is_broken(tmp_path, macros):
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
    messages = {text for each in macros.find_messages().values() for text in each}
    assert messages <= {*pages[site / "troubleshooting" / "index.html"].code}


def test_messages_of_all_errors_are_found_and_say_something(macros):
    found = macros.find_messages()
    messages = [text for each in found.values() for text in each]
    sources = [path.read_text() for path in macros.SOURCE.rglob("*.py")]
    made = re.compile(r"(?<!class )\b(?:UserError|Outage)\(")
    assert len(messages) >= sum(len(made.findall(source)) for source in sources) > 100
    assert [text for text in found["hydrasweep.settings"] if "hydra.sweeper.n_trials=…" in text]
    assert [text for text in found["hydrasweep.slips"] if "--cfg job" in text]
    assert [text for text in found["mnist.data"] if text.startswith("data.n_train=…")]
    assert not [text for text in messages if not macros.LITERAL.search(text)]
