"""Each class as often as the others: the order of an epoch is a function of the epoch and the seed."""

import sys

import numpy as np

import dongu


def order(split, epoch, seed):
    draw = np.random.default_rng([seed, epoch])
    counts = np.bincount(split.targets)
    chances = 1 / (counts[split.targets] * np.count_nonzero(counts))  # (rows,), a class has 1 in all
    return draw.choice(len(split), size=len(split), p=chances)


if __name__ == "__main__":
    data, model, out = sys.argv[1:]
    with dongu.Loop(data, model=model, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
