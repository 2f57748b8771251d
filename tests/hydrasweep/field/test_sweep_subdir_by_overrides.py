"""Job folders are to be named by their overrides.

They: ``hydra.sweep.subdir: ${hydra.job.override_dirname}``, whose values with a slash or of great
length make odd folders.
Source: github.com/facebookresearch/hydra/issues/3018, github.com/facebookresearch/hydra/issues/1384
Right: honoured or refused with a way out; never replaced in silence.
"""

from collections.abc import Callable

from apps import CONFIG, App

SUBDIR = "${hydra.job.override_dirname}"


def test_subdir_by_overrides_is_refused_with_a_way_out(app: Callable[..., App]) -> None:
    task = app("return cfg.x", CONFIG.replace("dir: sweep", f"dir: sweep\n    subdir: {SUBDIR}"))
    for words in ((), (f"hydra.sweep.subdir='{SUBDIR}'",)):
        done = task(*words)
        assert done.code == 1
        assert f"hydra.sweep.subdir={SUBDIR}" in done.err
        assert "${hydra.job.num}" in done.err
        assert not (done.folder / "sweep").exists()


def test_way_out_works(app: Callable[..., App]) -> None:
    done = app("return cfg.x")("hydra.sweep.subdir='${hydra.job.num}'", "hydra.sweeper.n_trials=1")
    assert done.code == 0, done.err
    assert (done.folder / "sweep" / "000").is_dir()
