"""Generated input: whatever it is, it works or is refused in words, writes nothing outside the
output folders and leaves no run open. A few of each kind by default, many with -m fuzz."""

import contextlib
import copy
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
import torch
from application import REPOSITORY, Compose, client_of, runs_of, write_digits, write_idx
from hypothesis import HealthCheck
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import create_trial
from PIL import Image
from strokes import draw

import digits
from hydrasweep import UserError, plain_exit
from hydrasweep.settings import study_name
from hydrasweep.space import Space, as_text
from hydrasweep.stratum import label
from mnist import config
from mnist.assembly import assemble
from mnist.recording import Run
from mnist.training import Training
from train import train

FEW, MANY = 1, 60
many = pytest.mark.parametrize(
    "times",
    [
        pytest.param(FEW, id="few"),
        pytest.param(MANY, id="many", marks=[pytest.mark.fuzz, pytest.mark.timeout(1800)]),
    ],
)


def examine(claim: Callable[..., None], n: int, **inputs: st.SearchStrategy[Any]) -> None:
    """Try a claim on ``n`` generated inputs, the same each time."""
    settings = hypothesis.settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    settings(hypothesis.given(**inputs)(claim))()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What fails ends as in an entrypoint: with a sentence, without a traceback."""
    try:
        with patch.dict(os.environ), plain_exit():
            return (yield)
    except SystemExit as end:
        code = end.code
    assert str(code).startswith("Error: ")


class Writes:
    """What this process opens for writing, makes or renames while it is watched."""

    def __init__(self) -> None:
        self.seen: set[str] | None = None
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
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
    def only_below(self, folder: Path) -> Iterator[None]:
        self.seen = set()
        try:
            yield
        finally:
            seen, self.seen = self.seen, None
            outside = {path for path in seen if not path.startswith((f"{folder}/", os.devnull))}
            # What imports make.
            assert not {path for path in outside if not re.search("__pycache__|torchinduc", path)}


@cache
def writes() -> Writes:
    return Writes()


# The search space

FUNCTIONS = ("choice", "interval", "range", "tag", "int", "float", "str", "glob", "shuffle", "sort")
numbers = st.integers(-10, 10) | st.integers() | st.floats() | st.sampled_from(["1e400", "0x10"])
words = st.sampled_from(
    ["null", "true", "'a b'", "a/b", "..", '"q', "${y}", "'${'", "[1,2]", "{a:1}", "é", "'\\''", ""]
)
arguments = st.lists(numbers | words, max_size=4).map(lambda v: ",".join(map(str, v)))
keywords = st.sampled_from(["", "", ",step=0", ",step=-1", ",step=0.5", ",log=true", ",start=1"])
sweeps = st.recursive(
    arguments,
    lambda inner: st.builds(
        "{}({}{})".format,
        st.sampled_from(FUNCTIONS),
        inner | inner.map("log,{}".format),
        keywords,
    ),
    max_leaves=3,
)
intervals = st.builds("interval({},{})".format, numbers, numbers)
ranges = st.builds("range({},{},step={})".format, *[st.integers(-50, 50)] * 2, st.integers(-3, 3))
likely = st.one_of(
    intervals,
    ranges,
    arguments.map("choice({})".format),
    intervals.map("int({})".format),
    intervals.map("tag(log,{})".format),
)
names = st.sampled_from(["x", "model", "a.b", "+x", "++x", "~x", "x@y", "", "=", "é", "a/b"])
overrides = st.builds("{}={}".format, names, likely | sweeps | st.text(max_size=12)) | st.text(
    max_size=20
)


@many
@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_search_space(times: int) -> None:
    def claim(words: list[str], stratify: str | None, value: Any) -> None:
        try:
            space = Space.parse(words, stratify)
        except UserError:
            return
        for stratum in space.strata:
            for corner in space.corners():
                space.overrides(stratum, corner)
            folder = label(stratum, "search", create_trial(value=0))
            assert Path("sweep", folder).resolve().parent == Path("sweep").resolve()
        assert space.record() == Space.parse(words, stratify).record()
        assert all(as_text(d) for d in space.distributions.values())
        with contextlib.suppress(UserError):
            space.check([value, dict.fromkeys(space.distributions, value)])

    examine(
        claim,
        80 * times,
        words=st.lists(overrides, max_size=3),
        stratify=st.sampled_from([None, "x", "model", ""]),
        value=numbers | words | st.none() | st.lists(st.none(), max_size=1),
    )


# Settings

# Whoever gives an absolute path wants files there.
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


def keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in node.items_ex(resolve=False):
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig):
            yield from keys(value, f"{prefix}{key}.")


def change(cfg: DictConfig, key: str, value: Any) -> None:
    """Set a key, or delete it."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if isinstance(node, DictConfig):
        with open_dict(node):
            node.pop(last, None) if value is GONE else node.__setitem__(last, value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in a folder that all may write to; nothing can be downloaded."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def few_digits(tmp_path: Path, compose: Compose, *more: str) -> DictConfig:
    """The config of a training on 40 small images."""
    if not (tmp_path / "data").exists():
        write_digits(tmp_path / "data")
    few = ("data.n_train=40", "data.n_val=8", "data.batch_size=8", "epochs=1", "n_threads=1")
    return compose(f"paths.data={tmp_path / 'data'}", *few, "device=cpu", *more, small=False)


@many
def test_settings(times: int, compose: Compose, here: Path) -> None:
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

    def claim(base: int, changes: list[tuple[str, Any]]) -> None:
        cfg = copy.deepcopy(bases[base])
        with told(), writes().only_below(here):
            for key, value in changes:
                change(cfg, key, value)
            config.check(cfg)
            assemble(cfg)

    change_one = st.tuples(st.sampled_from(names), values | st.just(GONE))
    try:
        examine(
            claim,
            60 * times,
            base=st.integers(0, 2),
            changes=st.lists(change_one, min_size=1, max_size=2),
        )
    finally:
        torch.set_num_threads(1)


@many
def test_command_line(times: int, compose: Compose, tmp_path: Path) -> None:
    names = sorted(keys(compose()))
    groups = [path.parent.name for path in (REPOSITORY / "conf").glob("*/*.yaml")]
    value = text | words | numbers.map(str) | arguments.map("[{}]".format)
    prefix = st.sampled_from(["", "", "", "+", "++", "~"])
    word = st.builds("{}{}={}".format, prefix, st.sampled_from([*names, *groups]), value)

    def claim(given: list[str]) -> None:
        with told(), writes().only_below(tmp_path):
            config.check(compose(*given))

    examine(claim, 10 * times, given=st.lists(word | st.text(max_size=10), max_size=2))


@many
def test_config_file(times: int, compose: Compose, tmp_path: Path) -> None:
    folder = tmp_path / "more" / "experiment"
    folder.mkdir(parents=True)
    sample = (REPOSITORY / "conf" / "experiment" / "tutorial_cnn.yaml").read_text()
    edits = st.tuples(st.integers(0, len(sample)), st.integers(0, 9), st.text(max_size=4))

    def claim(edits: list[tuple[int, int, str]]) -> None:
        content = sample
        for start, length, new in edits:
            content = content[:start] + new + content[start + length :]
        (folder / "mine.yaml").write_text(content, errors="ignore")
        with told(), writes().only_below(tmp_path):
            config.check(compose("experiment=mine", f"hydra.searchpath=[file://{folder.parent}]"))

    examine(claim, 10 * times, edits=st.lists(edits, max_size=3))


# Files

damages = st.lists(
    st.tuples(
        st.sampled_from(["cut", "insert", "replace"]), st.floats(0, 1), st.binary(max_size=6)
    ),
    min_size=1,
    max_size=3,
)


def damaged(content: bytes, damages: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, new in damages:
        at = int(where**4 * len(content))  # most of them near the beginning, at headers
        rest = {"cut": b"", "insert": content[at:], "replace": content[at + len(new) :]}[kind]
        content = content[:at] + new + rest
    return content


@many
def test_idx_files(times: int, compose: Compose, tmp_path: Path) -> None:
    cfg = few_digits(tmp_path, compose).data
    raw = tmp_path / "data" / "MNIST" / "raw"
    whole = {path: path.read_bytes() for path in raw.iterdir()}
    train = sorted(path for path in whole if path.name.startswith("train"))

    def claim(file: int, other: int, damages: list[tuple[str, float, bytes]]) -> None:
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

    def shapes(sizes: list[int], end: bytes) -> None:
        shutil.rmtree(tmp_path / "data" / ".cache", ignore_errors=True)
        write_idx(train[0], torch.zeros(sizes))
        train[0].write_bytes(train[0].read_bytes() + end)
        with pytest.raises(UserError):
            config.build(cfg).development()

    examine(shapes, 10 * times, sizes=sizes, end=bytes_)


@many
def test_caches_and_checkpoints(times: int, compose: Compose, tmp_path: Path) -> None:
    cfg = few_digits(tmp_path, compose, "model=cnn", "optimizer=sgd_momentum")
    job = assemble(cfg)
    state = tmp_path / "last.pt"
    job.training.save(state)
    (cache,) = (tmp_path / "data" / ".cache").glob("*-train-*.pt")
    whole, cached = state.read_bytes(), cache.read_bytes()

    def claim(damages: list[tuple[str, float, bytes]]) -> None:
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
def test_pictures(times: int, tmp_path: Path) -> None:
    whole, path = [], tmp_path / "picture"
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        draw(6, canvas=(40, 50), at=(5, 5), height=40, pen=4).save(file := io.BytesIO(), kind)
        whole.append(file.getvalue())

    def claim(content: bytes, damages: list[tuple[str, float, bytes]]) -> None:
        path.write_bytes(damaged(content, damages))
        with contextlib.suppress(UserError), writes().only_below(tmp_path / "nowhere"):
            pixels = digits.read(path)
            assert pixels.shape == (28, 28)
            assert pixels.max() >= 254

    examine(claim, 40 * times, content=st.sampled_from(whole), damages=damages)
    modes = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
    sides = st.integers(1, 40)

    def any_pixels(size: tuple[int, int], mode: str, data: st.DataObject) -> None:
        n_bytes = len(Image.new(mode, size).tobytes())
        pixels = data.draw(st.binary(min_size=n_bytes, max_size=n_bytes))
        Image.frombytes(mode, size, pixels).save(path, "TIFF")
        with contextlib.suppress(UserError):
            assert digits.read(path).max() >= 254

    size, mode = st.tuples(sides, sides), st.sampled_from(modes)
    examine(any_pixels, 10 * times, size=size, mode=mode, data=st.data())


@many
def test_histories(times: int, tmp_path: Path) -> None:
    whole = b'{"step": 1, "val/accuracy": 0.5}\n{"step": 2, "val/accuracy": 0.75}\n'

    def claim(damages: list[tuple[str, float, bytes]]) -> None:
        (tmp_path / "metrics.jsonl").write_bytes(damaged(whole, damages))
        with contextlib.suppress(UserError):
            Run(tmp_path)

    examine(claim, 20 * times, damages=damages)


# Names, and whole runs


@many
def test_names_of_studies(times: int, tmp_path: Path) -> None:
    def claim(name: Any) -> None:
        with contextlib.suppress(UserError), writes().only_below(tmp_path):
            folder = tmp_path / study_name(name)
            folder.mkdir(exist_ok=True)
            assert folder.resolve().parent == tmp_path

    kinds = st.text("aé_+.-/\\'\" \0", max_size=9)
    long = st.text("\U0001d538", min_size=50, max_size=110)  # of four bytes
    examine(claim, 20 * times, name=scalars | words | kinds | long)


@many
def test_runs(times: int, compose: Compose, root: Path, tmp_path: Path) -> None:
    base = few_digits(tmp_path, compose, "model=baseline", "score_test=false", "artifacts=false")
    named = (EXPERIMENT, "study", "score_train", "data.name")
    name = st.text(max_size=20) | words | st.sampled_from(["a/../..", "x" * 300, "a\0b", "%2e%2e/"])
    client = client_of(root)

    def claim(key: str, name: Any) -> None:
        cfg, folder = copy.deepcopy(base), Path(tempfile.mkdtemp(dir=tmp_path))
        with told(), writes().only_below(tmp_path):
            if key == EXPERIMENT:
                os.environ[key] = str(name).replace("\0", "")  # which none can hold
            else:
                change(cfg, key, name)
            train(cfg, folder)
        experiments = [e.experiment_id for e in client.search_experiments()]
        running = client.search_runs(experiments, "attributes.status = 'RUNNING'")
        assert not list(running)

    examine(claim, 3 * times, key=st.sampled_from(named), name=name | scalars)
    assert len(runs_of(client)) > 0
