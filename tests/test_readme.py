"""The README: its commands to install and test, its links, its app."""

import re
import shlex

import apps
from documents import INSTALL, README, REPOSITORY, text_of


def test_readme_is_short_and_its_first_commands_are_those_that_are_tested():
    assert len(README.splitlines()) <= 200
    trains, tests = INSTALL
    assert trains == 'python -m pip install -e ".[mnist]" && python src/train.py model=lenet5'
    assert tests in (REPOSITORY / ".ci" / "run").read_text()


def test_every_link_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert len(links) > 5
    assert not [link for link in links if not (REPOSITORY / link).exists()]


def test_the_app_sweeps(tmp_path):
    (tmp_path / "app.py").write_text(text_of("README", "python"))
    (tmp_path / "config.yaml").write_text(text_of("README", "yaml"))
    (line,) = re.findall(r"`python app\.py -m ([^`]*)` sweeps", README)
    sweep = apps.run(tmp_path, (*shlex.split(line), "hydra.sweeper.n_trials=3"))
    assert sweep.code == 0, sweep.err
    assert "0.01 to 0.5" in sweep.out
    assert "best trial" in sweep.out
