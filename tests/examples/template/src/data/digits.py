import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class DigitsDataModule:
    def __init__(self, batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.seed = seed

    def setup(self) -> None:
        images, labels = load_digits(return_X_y=True)
        split = train_test_split(images / 16, labels, random_state=0)
        self.train, self.val = (split[0], split[2]), (split[1], split[3])

    def train_batches(self):
        images, labels = self.train
        order = np.random.default_rng(self.seed).permutation(len(labels))
        for i in range(0, len(order), self.batch_size):
            batch = order[i : i + self.batch_size]
            yield images[batch], labels[batch]
