class Trainer:
    def __init__(self, max_epochs: int, callbacks: list) -> None:
        self.max_epochs = max_epochs
        self.callbacks = callbacks
        self.callback_metrics: dict[str, float] = {}
        self.current_epoch = 0

    def fit(self, model, datamodule) -> None:
        datamodule.setup()
        best = 0.0
        for epoch in range(self.max_epochs):
            self.current_epoch = epoch
            for images, labels in datamodule.train_batches():
                model.training_step(images, labels)
            acc = model.validate(*datamodule.val)
            best = max(best, acc)
            self.callback_metrics |= {"val/acc": acc, "val/acc_best": best}
            for callback in self.callbacks:
                callback.on_validation_end(self, model)
