"""A download of MNIST was cut short, or is no such file at all.

They: a proxy's page, an empty or a half file lay where the images should be; the error was a bare
EOFError or AssertionError.
Source: github.com/pytorch/vision/issues/541, github.com/datapythonista/mnist/issues/19
Right: a sentence that names the file, and says how to get it back.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from application import Compose, write_digits

from hydrasweep import UserError
from mnist import config

IMAGES = "train-images-idx3-ubyte"
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda whole: whole[:-100],
    "wrong magic": lambda whole: b"\0\0\x99\x03" + whole[4:],
    "a page": lambda _: b"<html><body>503 Service Unavailable</body></html>",
    "empty": lambda _: b"",
    "still packed": lambda whole: b"\x1f\x8b\x08\0" + whole,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_file_is_named(compose: Compose, tmp_path: Path, damage: str) -> None:
    raw = write_digits(tmp_path / "data")
    (raw / IMAGES).write_bytes(DAMAGES[damage]((raw / IMAGES).read_bytes()))
    cfg = compose(f"paths.data={tmp_path / 'data'}", "data.n_train=40", "data.n_val=9")
    with pytest.raises(UserError, match=f"^data=mnist: .*{IMAGES}.*delete it") as told:
        config.build(cfg.data).development()
    assert "\n" not in str(told.value)
