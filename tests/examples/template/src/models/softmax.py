import numpy as np


class Softmax:
    """Softmax regression by gradient descent."""

    def __init__(self, optimizer) -> None:
        self.lr = optimizer.lr
        self.weights = np.zeros((64, 10))

    def training_step(self, images: np.ndarray, labels: np.ndarray) -> None:
        odds = np.exp(images @ self.weights)
        error = odds / odds.sum(axis=1, keepdims=True) - np.eye(10)[labels]
        self.weights -= self.lr * images.T @ error / len(labels)

    def validate(self, images: np.ndarray, labels: np.ndarray) -> float:
        return float(((images @ self.weights).argmax(axis=1) == labels).mean())
