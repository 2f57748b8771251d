"""Properties of the application: generated input works or is refused, nothing is written outside
the output folders, and no run is left open. The default run tries few inputs, ``-m fuzz`` many."""

import contextlib
import copy
import io
import os
import re
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from application import REPOSITORY, client_of, runs_of, write_digits, write_idx
from composing import GROUPS
from generated import arguments, examine, many, numbers, texts
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from strokes import draw

import digits
from hydrasweep import UserError, plain_exit
from mnist import config
from mnist.assembly import assemble
from mnist.recording import Run
from mnist.training import Training
from train import train


@contextlib.contextmanager
def refused_or_fine():
    """Errors are user errors, for which an entrypoint prints a message without a traceback."""
    try:
        with patch.dict(os.environ), plain_exit():
            return (yield)
    except SystemExit as end:
        code = end.code
    assert str(code).startswith("Error: ")


class Writes:
    """The paths that this process writes, creates or renames."""

    def __init__(self):
        self.seen: set[str] | None = None
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        if self.seen is None:
            return
        if event == "open":
            path, _, flags = args
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in ("os.mkdir", "sqlite3.connect"):
            path = args[0]
        elif event == "os.rename":
            path = args[1]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike):
            self.seen.add(str(Path(os.fsdecode(path)).resolve()))

    @contextlib.contextmanager
    def only_below(self, folder):
        self.seen = set()
        try:
            yield
        finally:
            seen, self.seen = self.seen, None
            outside = {path for path in seen if not path.startswith((f"{folder}/", os.devnull))}
            # Imports write these.
            assert not {path for path in outside if not re.search("__pycache__|torchinduc", path)}


@cache
def writes():
    return Writes()


# An absolute path is a valid place for files.
text = st.text(max_size=8).filter(lambda text: not text.startswith("/"))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**63, 10**30, -(2**63), 1e-320, 1e300]),
    st.floats(),
    text,
    st.sampled_from(["${epochs}", "${nope}", "???", "cpu", "cuda", "1e3", "val/accuracy"]),
    st.sampled_from(["..", "a/b", "torch.nn.ReLU"]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "lr", "_target_", "n_val"]), inner, max_size=2)
    ),
    max_leaves=4,
)
GONE = object()
EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"


def keys(node, prefix=""):
    for key, value in node.items_ex(resolve=False):
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig):
            yield from keys(value, f"{prefix}{key}.")


def change(cfg, key, value):
    """Set a key, or delete it."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if isinstance(node, DictConfig):
        with open_dict(node):
            node.pop(last, None) if value is GONE else node.__setitem__(last, value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder for all files, which contains the working directory. Downloads fail."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def few_digits(tmp_path, compose, *more):
    """The config of a training on 40 small images."""
    if not (tmp_path / "data").exists():
        write_digits(tmp_path / "data")
    few = ("data.n_train=40", "data.n_val=8", "data.batch_size=8", "epochs=1", "n_threads=1")
    return compose(f"paths.data={tmp_path / 'data'}", *few, "device=cpu", *more, small=False)


@many
def test_any_settings_work_or_are_refused(times, compose, here):
    bases = [
        few_digits(here, compose, "tracking=none", *more)
        for more in (
            ("model=lenet5",),
            ("model=cnn", "augmentation=affine", "scheduler=cosine", "optimizer=sgd_momentum"),
            ("model=baseline", "scheduler=constant"),
        )
    ]
    everything = {key for cfg in bases for key in keys(cfg)}
    names = sorted(key for key in everything if not key.endswith("._recursive_"))

    def claim(base, changes):
        cfg = copy.deepcopy(bases[base])
        with refused_or_fine(), writes().only_below(here):
            for key, value in changes:
                change(cfg, key, value)
            config.check(cfg)
            assemble(cfg)

    change_one = st.tuples(st.sampled_from(names), values | st.just(GONE))
    try:
        examine(
            claim,
            30 * times,
            base=st.integers(0, 2),
            changes=st.lists(change_one, min_size=1, max_size=2),
        )
    finally:
        torch.set_num_threads(1)


@many
def test_any_command_line_works_or_is_refused(times, compose, tmp_path):
    names = sorted(keys(compose()))
    groups = sorted(GROUPS)
    value = text | texts | numbers.map(str) | arguments.map("[{}]".format)
    prefix = st.sampled_from(["", "", "", "+", "++", "~"])
    word = st.builds("{}{}={}".format, prefix, st.sampled_from([*names, *groups]), value)

    def claim(given):
        with refused_or_fine(), writes().only_below(tmp_path):
            config.check(compose(*given))

    examine(claim, 10 * times, given=st.lists(word | st.text(max_size=10), max_size=2))


@many
def test_any_config_file_works_or_is_refused(times, compose, tmp_path):
    folder = tmp_path / "more" / "experiment"
    folder.mkdir(parents=True)
    sample = (REPOSITORY / "conf" / "experiment" / "tutorial_cnn.yaml").read_text()
    edits = st.tuples(st.integers(0, len(sample)), st.integers(0, 9), st.text(max_size=4))

    def claim(edits):
        content = sample
        for start, length, new in edits:
            content = content[:start] + new + content[start + length :]
        (folder / "mine.yaml").write_text(content, errors="ignore")
        with refused_or_fine(), writes().only_below(tmp_path):
            config.check(compose("experiment=mine", f"hydra.searchpath=[file://{folder.parent}]"))

    examine(claim, 10 * times, edits=st.lists(edits, max_size=3))


damages = st.lists(
    st.tuples(
        st.sampled_from(["cut", "insert", "replace"]), st.floats(0, 1), st.binary(max_size=6)
    ),
    min_size=1,
    max_size=3,
)


def damaged(content, damages):
    for kind, where, new in damages:
        at = int(where**4 * len(content))  # mostly near the beginning, in the header
        rest = {"cut": b"", "insert": content[at:], "replace": content[at + len(new) :]}[kind]
        content = content[:at] + new + rest
    return content


@many
def test_any_idx_file_works_or_is_refused(times, compose, tmp_path):
    cfg = few_digits(tmp_path, compose).data
    raw = tmp_path / "data" / "MNIST" / "raw"
    whole = {path: path.read_bytes() for path in sorted(raw.iterdir())}
    train = sorted(path for path in whole if path.name.startswith("train"))

    def claim(file, other, damages):
        shutil.rmtree(tmp_path / "data" / ".cache", ignore_errors=True)
        for path, content in whole.items():
            path.write_bytes(content)
        train[file].write_bytes(damaged([*whole.values()][other], damages))
        data = config.build(cfg)
        with contextlib.suppress(UserError), writes().only_below(tmp_path / "data"):
            images, labels = data.development()[0]
            assert images.shape == (40, 1, 28, 28)
            assert 0 <= int(labels.min()) <= int(labels.max()) < 10

    examine(claim, 30 * times, file=st.integers(0, 1), other=st.integers(0, 3), damages=damages)
    bytes_ = st.lists(st.integers(0, 255), max_size=3).map(bytes)
    sizes = st.lists(st.integers(0, 5), min_size=1, max_size=4)

    def shapes(sizes, end):
        shutil.rmtree(tmp_path / "data" / ".cache", ignore_errors=True)
        write_idx(train[0], torch.zeros(sizes))
        train[0].write_bytes(train[0].read_bytes() + end)
        with pytest.raises(UserError):
            config.build(cfg).development()

    examine(shapes, 10 * times, sizes=sizes, end=bytes_)


@many
def test_any_cache_or_checkpoint_works_or_is_refused(times, compose, tmp_path):
    cfg = few_digits(tmp_path, compose, "model=cnn", "optimizer=sgd_momentum")
    job = assemble(cfg)
    state = tmp_path / "last.pt"
    job.training.save(state)
    (cache,) = (tmp_path / "data" / ".cache").glob("*-train-*.pt")
    whole, cached = state.read_bytes(), cache.read_bytes()

    def claim(damages):
        state.write_bytes(damaged(whole, damages))
        training: Training = copy.deepcopy(job.training)
        with contextlib.suppress(UserError):
            training.load(state)
        cache.unlink()  # it may be mapped
        cache.write_bytes(damaged(cached, damages))
        with contextlib.suppress(UserError):
            split = config.build(cfg.data).development()[0]
            assert split.inputs.shape == (40, 1, 28, 28)

    examine(claim, 15 * times, damages=damages)


@many
def test_any_picture_works_or_is_refused(times, tmp_path):
    whole, path = [], tmp_path / "picture"
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        draw(6, canvas=(40, 50), at=(5, 5), height=40, pen=4).save(file := io.BytesIO(), kind)
        whole.append(file.getvalue())

    def claim(content, damages):
        path.write_bytes(damaged(content, damages))
        with contextlib.suppress(UserError), writes().only_below(tmp_path / "nowhere"):
            pixels = digits.read(path)
            assert pixels.shape == (28, 28)
            assert pixels.max() >= 254

    examine(claim, 40 * times, content=st.sampled_from(whole), damages=damages)
    modes = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
    sides = st.integers(1, 40)

    def any_pixels(size, mode, data):
        n_bytes = len(Image.new(mode, size).tobytes())
        pixels = data.draw(st.binary(min_size=n_bytes, max_size=n_bytes))
        Image.frombytes(mode, size, pixels).save(path, "TIFF")
        with contextlib.suppress(UserError):
            assert digits.read(path).max() >= 254

    size, mode = st.tuples(sides, sides), st.sampled_from(modes)
    examine(any_pixels, 10 * times, size=size, mode=mode, data=st.data())


@many
def test_any_history_of_metrics_works_or_is_refused(times, tmp_path):
    whole = b'{"step": 1, "val/accuracy": 0.5}\n{"step": 2, "val/accuracy": 0.75}\n'

    def claim(damages):
        (tmp_path / "metrics.jsonl").write_bytes(damaged(whole, damages))
        with contextlib.suppress(UserError):
            Run(tmp_path)

    examine(claim, 20 * times, damages=damages)


@many
def test_runs_with_any_names_end(times, compose, root, tmp_path):
    base = few_digits(tmp_path, compose, "model=baseline", "score_test=false", "artifacts=false")
    named = (EXPERIMENT, "study", "score_train", "data.name")
    name = st.text(max_size=20) | texts | st.sampled_from(["a/../..", "x" * 300, "a\0b", "%2e%2e/"])
    client = client_of(root)

    def claim(key, name):
        cfg, folder = copy.deepcopy(base), Path(tempfile.mkdtemp(dir=tmp_path))
        with refused_or_fine(), writes().only_below(tmp_path):
            if key == EXPERIMENT:
                os.environ[key] = str(name).replace("\0", "")  # not in a variable
            else:
                change(cfg, key, name)
            train(cfg, folder)
        experiments = [e.experiment_id for e in client.search_experiments()]
        running = client.search_runs(experiments, "attributes.status = 'RUNNING'")
        assert not list(running)

    examine(claim, 3 * times, key=st.sampled_from(named), name=name | scalars)
    assert len(runs_of(client)) > 0
