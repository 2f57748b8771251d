"""Hydra-driven hyperparameter sweeps for PyTorch, recorded in MLflow, searched by Optuna."""
