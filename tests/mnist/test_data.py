"""Data sets are decoded once and split by a seed; those that do not fit are refused."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pkgutil import resolve_name
from textwrap import dedent

import numpy as np
import pytest
import torch
from application import REPOSITORY, MakesFolder, environment, start, write_digits
from omegaconf import OmegaConf
from PIL import Image

from hydrasweep import UserError
from mnist import config
from mnist.data import ImageData, Normalize

# A user's data set: 12x10 pixels, three channels, all images in one file.
USERS_MODULE = dedent(
    """
    from pathlib import Path
    import numpy as np

    N = {True: 120, False: 30}

    class Stripes:
        pixels = label = staticmethod(lambda value: value)

        def __init__(self, root, train):
            with (Path(root).parent / "decoded.log").open("a") as file:
                print(train, file=file)
            values = np.frombuffer((Path(root) / "stripes.bin").read_bytes(), dtype=np.uint8)
            images = values.reshape(150, 12, 10, 3)
            self.images = images[:120] if train else images[120:]

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.pixels(self.images[index]), self.label(index % 3)

    class Downloaded(Stripes):
        def __init__(self, root, train, download):
            assert download
            super().__init__(root, train)

    class Inherited(Downloaded):
        def __init__(self, root, **more):
            super().__init__(root, **more)
    """
)


@pytest.fixture
def stripes(tmp_path, monkeypatch):
    """The user's data set, built from the settings that a file under conf/data has."""
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "stripes_module.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path / "user")
    monkeypatch.delitem(sys.modules, "stripes_module", raising=False)
    (tmp_path / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, size=(150, 12, 10, 3), dtype=np.uint8)
    (tmp_path / "data" / "stripes.bin").write_bytes(pixels.tobytes())
    return stripes_data(tmp_path)


def stripes_data(folder, **changes):
    node = {
        "_target_": "mnist.data.ImageData",
        "_recursive_": False,
        "name": "stripes",
        "dataset": {"_target_": "stripes_module.Stripes", "root": str(folder / "data")},
        "n_classes": 3,
        "n_channels": 3,
        "image_size": [12, 10],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "n_train": None,
        "n_val": 30,
        "split_seed": 0,
        "batch_size": 16,
        **changes,
    }
    data = config.build(OmegaConf.create(node))
    assert isinstance(data, ImageData)
    return data


def n_decoded(folder):
    return len((folder / "decoded.log").read_text().splitlines())


def test_users_data_set_with_three_channels_needs_settings_alone(stripes, tmp_path):
    train, val = stripes.development()
    raw = np.frombuffer((tmp_path / "data" / "stripes.bin").read_bytes(), dtype=np.uint8)
    expected = torch.from_numpy(raw.reshape(150, 12, 10, 3).copy()).permute(0, 3, 1, 2)
    assert train.inputs.shape == (90, 3, 12, 10)
    assert train.inputs.dtype == torch.uint8
    assert val.targets.bincount().tolist() == [10, 10, 10]
    assert torch.equal(stripes.test().inputs, expected[120:])
    assert torch.equal(stripes.first(4).inputs, expected[:4])
    assert stripes.first(4).targets.tolist() == [0, 1, 2, 0]


def test_decoding_happens_once_until_the_files_change(stripes, tmp_path):
    before = stripes.development()[0]
    again = stripes_data(tmp_path).development()[0]
    stripes.test(), stripes.first(2), stripes_data(tmp_path).test()
    assert n_decoded(tmp_path) == 2
    assert torch.equal(before.inputs, again.inputs)
    file = tmp_path / "data" / "stripes.bin"
    file.write_bytes(bytes(reversed(file.read_bytes())))
    changed = stripes_data(tmp_path).development()[0]
    assert n_decoded(tmp_path) == 3
    assert not torch.equal(before.inputs, changed.inputs)
    assert len(list((tmp_path / "data" / ".cache").glob("*.pt"))) == 2


@pytest.mark.parametrize("name", ["Downloaded", "Inherited"])
def test_download_is_passed_to_a_class_that_accepts_it(stripes, tmp_path, name):
    dataset = {**stripes.dataset, "_target_": f"stripes_module.{name}"}
    assert len(stripes_data(tmp_path, dataset=dataset).first(9).targets) == 9
    with pytest.raises(UserError, match="AssertionError"):
        stripes_data(tmp_path, dataset={**dataset, "download": False}).first(9)


def test_other_arguments_do_not_use_the_same_cache(stripes, tmp_path):
    stripes.development()
    other = {**stripes.dataset, "train": False}
    with pytest.raises(UserError, match="multiple values for keyword argument 'train'"):
        stripes_data(tmp_path, dataset=other).development()


@pytest.mark.parametrize("damage", ["empty", "other bytes", "cut short", "code"])
def test_damaged_cache_is_made_again(stripes, tmp_path, damage):
    expected = stripes.development()[0].inputs.clone()
    (cache,) = (tmp_path / "data" / ".cache").glob("*.pt")
    if damage == "code":
        torch.save(MakesFolder(tmp_path / "made"), cache)
    else:
        contents = {
            "empty": b"",
            "other bytes": b"no cache",
            "cut short": cache.read_bytes()[:-1000],
        }
        cache.write_bytes(contents[damage])
    assert torch.equal(stripes_data(tmp_path).development()[0].inputs, expected)
    assert n_decoded(tmp_path) == 2
    assert not (tmp_path / "made").exists()


def test_digest_depends_on_the_contents_alone(stripes, tmp_path):
    digest = stripes.digest
    assert re.fullmatch("[0-9a-f]{16}", digest)
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere" / "data")
    os.utime(tmp_path / "elsewhere" / "data" / "stripes.bin")
    assert stripes_data(tmp_path / "elsewhere", name="other", n_val=9).digest == digest
    file = tmp_path / "data" / "stripes.bin"
    os.utime(file)
    assert stripes_data(tmp_path).digest == digest
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    assert stripes_data(tmp_path).digest != digest


def test_two_processes_decode_once(stripes, tmp_path):
    build = tmp_path / "build.py"
    build.write_text(
        dedent(
            f"""
            import sys
            sys.path[:0] = [{str(REPOSITORY / "tests" / "mnist")!r}, {str(tmp_path / "user")!r}]
            from pathlib import Path
            from test_data import stripes_data
            train, val = stripes_data(Path({str(tmp_path)!r})).development()
            print(int(train.inputs.sum()))
            """
        )
    )
    env = environment(tmp_path, PYTHONPATH=str(REPOSITORY / "src"))
    both = [start([str(build)], cwd=tmp_path, env=env) for _ in range(2)]
    ended = [process.done() for process in both]
    expected = f"{int(stripes.development()[0].inputs.sum())}\n"
    assert [(done.returncode, done.stdout) for done in ended] == [(0, expected)] * 2
    assert n_decoded(tmp_path) == 1
    assert not list((tmp_path / "data" / ".cache").glob("*.tmp"))


@pytest.mark.parametrize("cached", [False, True], ids=["decoded now", "from the cache"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_classes": 2}, ["data.n_classes=2", "0 ", " 2"]),
        ({"image_size": [10, 12]}, ["data.image_size", "(3, 12, 10)", "(3, 10, 12)"]),
        (
            {"n_channels": 1, "mean": [0.5], "std": [0.2]},
            ["data.n_channels", "(3, 12, 10)", "(1, 12, 10)"],
        ),
        ({"n_val": 120}, ["data.n_val=120", " 120 "]),
        ({"n_train": 91}, ["data.n_train=91", "data.n_val=30", " 120 "]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_the_data_are_refused(stripes, tmp_path, cached, changes, words):
    if cached:
        stripes.development()
    with pytest.raises(UserError) as refused:
        stripes_data(tmp_path, **changes).development()
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("name", value) for value in ("", "a b", "a/b", "x" * 101, None, 3)),
        *(("dataset", value) for value in (None, "stripes", {"_target_": "a.B"}, {"root": "."})),
        ("dataset", {"_target_": 3, "root": "."}),
        *((key, value) for key in ("n_classes", "n_channels", "n_train") for value in (0, -1, 1.5)),
        *((key, value) for key in ("n_val", "split_seed") for value in (-1, True, "3", 2**63)),
        *(
            ("image_size", value)
            for value in ([12], 12, [12, 0], [12, 10.0], [12, 10, 3], "ab", [12, None])
        ),
        *((key, value) for key in ("mean", "std") for value in ([0.5], 0.5, [1, 2, "3"], None)),
        ("mean", [0.5, 0.5, float("nan")]),
        ("std", [0.2, 0.2, 0]),
        ("std", [0.2, 0.2, float("inf")]),
    ],
)
def test_wrong_argument_is_refused_by_its_name(tmp_path, key, value):
    with pytest.raises(UserError) as refused:
        stripes_data(tmp_path, **{key: value})
    assert str(refused.value).startswith(f"data.{key}={value}: ")


def change(**functions):
    """Let the user's class give other labels or images."""
    for name, function in functions.items():
        setattr(resolve_name("stripes_module.Stripes"), name, staticmethod(function))


@pytest.mark.parametrize("label", [int, np.uint8, np.int16, torch.tensor])
def test_labels_of_any_integer_type_become_int64(stripes, label):
    """Users' labels come from pandas, NumPy or another framework; the loss needs int64
    (openillumi.com/?p=68984)."""
    change(label=label)
    _, labels = stripes.first(5)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    "label", [float, str, bool, lambda value: [value, 0], lambda value: None if value else 0]
)
def test_other_labels_are_refused(stripes, label):
    """Users' labels are floats, text or one-hot vectors (jamesmccaffreyblog.com/2023/03/22). The
    message is about the labels: the files are not damaged."""
    change(label=label)
    with pytest.raises(UserError, match=r"^data=stripes: labels ") as refused:
        stripes.development()
    assert "delete" not in str(refused.value)


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (lambda image: image / np.float32(255), r"float32.* 0\.0 .* 1\.0"),
        (lambda image: image * np.uint16(257), "uint16.* 0 .* 65535"),
        (lambda image: torch.from_numpy(image.copy()).float(), r"float32.* 0\.0 .* 255\.0"),
    ],
)
def test_other_pixels_are_refused_with_their_range(stripes, pixels, found):
    """Users divide by 255, as many tutorials do, or keep a camera's 12 bits. As bytes, the first
    images would be black and the second ones wrapped (stackoverflow.com/questions/52398936,
    github.com/pytorch/vision/issues/8782)."""
    change(pixels=pixels)
    with pytest.raises(UserError, match=f"^data=stripes: .*{found}, .* uint8"):
        stripes.development()


def test_images_may_be_tensors_and_pictures(stripes, tmp_path):
    expected = stripes.first(120).inputs
    for pixels in (lambda image: torch.from_numpy(image.copy()).permute(2, 0, 1), Image.fromarray):
        change(pixels=pixels)
        os.utime(tmp_path / "data" / "stripes.bin")
        assert torch.equal(stripes_data(tmp_path).first(120).inputs, expected)


def test_file_that_is_cut_short_is_named(stripes, tmp_path):
    raw = tmp_path / "data" / "stripes.bin"
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"stripes\.bin") as refused:
        stripes.development()
    assert "delete" in str(refused.value)


@pytest.fixture
def mnist_copy(compose, tmp_path, monkeypatch):
    """A copy of the repository's MNIST, and no network to download another."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (REPOSITORY / "data" / "MNIST" / "raw").glob("*.gz"):
        shutil.copy(archive, raw)
    return raw, config.build(compose(f"paths.data={tmp_path / 'data'}").data)


def test_archives_are_unpacked_and_other_files_stay(mnist_copy):
    """A user's ``labels.csv`` was replaced when the archive beside it was unpacked
    (github.com/facebookresearch/fairseq/issues/1425)."""
    raw, data = mnist_copy
    (raw / "labels.csv").write_text("mine")
    (raw / "labels.csv.gz").write_text("mine too")
    assert data.test().targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert (raw / "labels.csv").read_text() == "mine"
    assert (raw / "labels.csv.gz").read_text() == "mine too"
    shutil.rmtree(raw)
    with pytest.raises(UserError, match=r"data=mnist: .*network"):
        data.test()


@pytest.mark.parametrize("damage", ["cut short", "swapped"])
def test_damaged_archive_is_named_with_the_command_that_restores_it(mnist_copy, damage):
    raw, data = mnist_copy
    test_labels = raw / "t10k-labels-idx1-ubyte.gz"
    if damage == "cut short":
        test_labels.write_bytes(test_labels.read_bytes()[:-100])
    else:
        shutil.copy(raw / "train-labels-idx1-ubyte.gz", test_labels)
    with pytest.raises(UserError) as refused:
        data.test()
    message = str(refused.value)
    assert "t10k-labels-idx1-ubyte.gz" in message.partition("Files:")[0]
    assert "git checkout -- data" in message


# Torchvision reads unpacked files without checking them.
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "images cut short": (TRAIN_IMAGES, lambda whole: whole[:-100]),
    "labels cut short": (TRAIN_LABELS, lambda whole: whole[:-1]),
    "header alone": (TRAIN_IMAGES, lambda whole: whole[:16]),
    "part of a header": (TRAIN_LABELS, lambda whole: whole[:6]),
    "empty": (TRAIN_IMAGES, lambda _: b""),
    "wrong magic number": (TRAIN_IMAGES, lambda whole: b"\0\0\x99\x03" + whole[4:]),
    "a page": (TRAIN_IMAGES, lambda _: b"<html><body>503 Service Unavailable</body></html>"),
    "still packed": (TRAIN_IMAGES, lambda whole: b"\x1f\x8b\x08\0" + whole),
}


@pytest.fixture
def unpacked(compose, tmp_path):
    """The folder of a small MNIST and the config of its data set."""
    raw = write_digits(tmp_path / "data")
    cfg = compose(f"paths.data={tmp_path / 'data'}", "data.n_train=40", "data.n_val=9").data
    assert len(config.build(cfg).development()[0].targets) == 40
    return raw, cfg


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_refused_by_name(unpacked, damage):
    """Users' downloads were cut short or were a proxy's error page, and ended with an EOFError
    (github.com/pytorch/vision/issues/541, github.com/datapythonista/mnist/issues/19)."""
    (raw, cfg), (name, function) = unpacked, DAMAGES[damage]
    (raw / name).write_bytes(function((raw / name).read_bytes()))
    with pytest.raises(UserError, match=f"^data=mnist: .*{name}.*delete") as refused:
        config.build(cfg).development()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (TRAIN_LABELS, TRAIN_IMAGES),
        (TRAIN_IMAGES, TRAIN_LABELS),
        (TRAIN_IMAGES, "t10k-images-idx3-ubyte"),
        (TRAIN_LABELS, "t10k-labels-idx1-ubyte"),
    ],
)
def test_swapped_files_are_refused(unpacked, name, other):
    raw, cfg = unpacked
    shutil.copy(raw / other, raw / name)
    with pytest.raises(UserError, match=r"^data=mnist: "):
        config.build(cfg).development()


def test_cached_data_need_no_torchvision(compose, monkeypatch):
    expected = config.build(compose().data).development()[0].inputs
    for name in ("torchvision", "torchvision.datasets", "PIL"):
        monkeypatch.setitem(sys.modules, name, None)  # an import raises ModuleNotFoundError
    data = config.build(compose().data)
    assert torch.equal(data.development()[0].inputs, expected)
    assert len(data.first(16).targets) == 16


def test_validation_images_are_class_balanced_seeded_and_not_trained_on(compose):
    def split(seed):
        data = config.build(compose(f"data.split_seed={seed}", small=False).data)
        assert isinstance(data, ImageData)
        return data

    train, val = split(0).development()
    assert len(train.targets) == 50_000
    assert val.targets.bincount().tolist() == [1000] * 10
    again_train, again_val = split(0).development()
    assert torch.equal(val.inputs, again_val.inputs)
    assert torch.equal(train.targets, again_train.targets)
    assert not torch.equal(val.inputs, split(1).development()[1].inputs)

    def rows(images):
        return {image.tobytes() for image in images.numpy()}

    assert not rows(train.inputs) & rows(val.inputs)
    everything = config.build(compose(small=False).data).first(60_000).inputs
    assert rows(train.inputs) | rows(val.inputs) == rows(everything)


def test_parts_of_the_data_are_class_balanced(compose):
    whole, _ = config.build(compose("data.n_train=null").data).development()
    train, val = config.build(compose("data.n_train=100", "data.n_val=50").data).development()
    assert len(whole.targets) == 59_800
    assert train.targets.bincount().tolist() == [10] * 10
    assert val.targets.bincount().tolist() == [5] * 10
    _, nothing = config.build(compose("data.n_val=0").data).development()
    assert nothing.inputs.shape == (0, 1, 28, 28)


@pytest.mark.parametrize("group", ["mnist", "mnist_tutorial"])
def test_normalizing_equals_torchvisions_transforms(compose, group):
    from torchvision import transforms

    cfg = compose(f"data={group}").data
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    plain = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(tuple(cfg.mean), tuple(cfg.std))]
    )
    expected = torch.stack([plain(image.numpy()) for image in images])
    ours = Normalize(cfg.mean, cfg.std)(images.unsqueeze(1))
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_tutorial_scales_pixels_by_128(compose):
    normalize = config.build(compose("data=mnist_tutorial").data).normalize()
    white = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
    assert normalize(white).item() == pytest.approx(1 / 128)
