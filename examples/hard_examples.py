"""Rows that were hard are seen more often: the order depends on losses, which checkpoints hold."""

import sys

import numpy as np

import dongu


def setup(loop):
    losses = loop.own["losses"] = dongu.Array(np.zeros(len(loop.splits["train"])))
    drawn = loop.own["drawn"] = dongu.Array(np.full(len(losses.value) + 1, -1))  # an epoch, and its order

    def order(epoch):
        if drawn.value[0] != epoch:  # else the run goes on in the middle of it
            draw = np.random.default_rng([loop.config.seed, epoch])
            chances = losses.value + losses.value.mean() + 1e-3
            rows = draw.choice(len(chances), size=len(chances), p=chances / chances.sum())
            drawn.value[:] = [epoch, *rows]
        return drawn.value[1:]

    loop.order = order


def update(loop, update):
    update.backward()
    step = update.step()
    loop.own["losses"].value[step.rows] = step.row_losses


if __name__ == "__main__":
    data, model, out = sys.argv[1:]
    with dongu.Loop(data, model=model, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
