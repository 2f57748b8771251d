"""The file of the studies is deleted while a trial runs.

They: removed the database in the middle of a study; what the trial gave is lost, and the error
says nothing of the file.
Source: github.com/optuna/optuna/issues/2722
Right: the sweep ends with 1 and says that the file was deleted.
"""

from collections.abc import Callable

from apps import SQLITE, App


def test_deleted_database_is_told(app: Callable[..., App]) -> None:
    body = """
        import glob
        for path in glob.glob("sweep/study.db*"):
            os.remove(path)
        return cfg.x
    """
    done = app(body)(SQLITE)
    assert done.code == 1
    assert "study.db" in done.err
    assert "was deleted" in done.err
    assert "Traceback" not in done.out + done.err
