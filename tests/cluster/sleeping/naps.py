"""A module beside the app, which is installed nowhere: workers must find it."""

import time


def nap(seconds: float) -> None:
    time.sleep(seconds)
