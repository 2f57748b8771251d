import hydra

import hydrasweep


@hydra.main(config_path=".", config_name="config")
def main(cfg):
    x = 5.0
    for step in range(10):
        x -= cfg.lr * 2 * x
        if hydrasweep.report(x**2, step):
            break
    return x**2


main()
