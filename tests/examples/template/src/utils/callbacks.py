import logging
import time

log = logging.getLogger(__name__)


class Timer:
    def __init__(self) -> None:
        self.began = time.time()

    def on_validation_end(self, trainer, model) -> None:
        del model
        seconds = time.time() - self.began
        log.info("epoch %d after %.2f s", trainer.current_epoch, seconds)
