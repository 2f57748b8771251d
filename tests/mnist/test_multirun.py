"""A plain multirun ends with one table of its runs and never evaluates the test images."""

import json
import re

import application
from application import REPOSITORY, environment

RUNS = ("-m", "model=baseline,lenet5", "epochs=1", "data.n_train=200", "data.n_val=200")


def test_runs_are_compared_in_a_table_and_never_evaluate_the_test_images(script, root):
    done = script("train.py", *RUNS, "artifacts=false", "tracking=none")
    assert done.returncode == 0, done.stderr
    head, *rows = re.findall(r"^ +((?:run|0|1) .*)", done.stdout, re.MULTILINE)
    assert head.split() == ["run", "model", "val/loss", "val/accuracy", "seconds"]
    assert [row.split()[:2] for row in rows] == [["0", "baseline"], ["1", "lenet5"]]
    for i in (0, 1):
        assert re.search(rf"^#{i} epoch 1/1  loss", done.stdout, re.MULTILINE)

    folders = sorted((root / "outputs" / "multirun").glob("*/[01]"))
    words = [str(REPOSITORY / "src" / "train.py"), f"resume={folders[0]}"]
    resumed = application.run(words, cwd=root, env=environment(root))
    assert resumed.returncode == 0, resumed.stderr
    for shown in (done.stdout, resumed.stdout):
        assert re.search(r"^val +accuracy", shown, re.MULTILINE)
        assert not re.search(r"^test ", shown, re.MULTILINE)
    for folder in folders:
        (epoch,) = (folder / "metrics.jsonl").read_text().splitlines()
        assert json.loads(epoch)["step"] == 1


def test_sweep_prints_no_table_of_its_runs(sweep):
    assert not re.search(r"^ +run .*seconds *$", sweep.out, re.MULTILINE)
