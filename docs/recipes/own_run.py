"""A run folder around a loop of your own; started again, it goes on."""

import dongu

loop = dongu.Loop("reviews.csv", model="minilm", epochs=2)
with loop.run("runs/mine") as run:
    for step in run:
        run.record(smallest=step.row_losses.min())
        if run.due and run.evaluate()["accuracy"] > 0.99:
            break
print("accuracy", run.result.metrics["accuracy"])
