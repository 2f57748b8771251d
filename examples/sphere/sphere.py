"""Gradient descent on a sphere, to whose center a point comes the closer the better its steps."""

import hydra

import hydrasweep


@hydra.main(config_path=".", config_name="config")
def main(cfg):
    x, y = 3.0, 4.0
    for step in range(5):
        x, y = x - cfg.rate * 2 * x, y - cfg.rate * 2 * y
        distance = (x**2 + y**2) ** 0.5
        if hydrasweep.report(distance, step):
            break
    return distance


if __name__ == "__main__":
    main()
