"""Gradual unfreezing: the head first, then layer by layer from the top; with SGD and a schedule of its own."""

import re
import sys

import torch

import dongu

STEPS_A_LAYER = 4


def optimizer(parameters):
    return torch.optim.SGD(parameters.values(), lr=0.05, momentum=0.9)


def lr_scheduler(step, total_steps):
    return min(1, (step + 1) / 3) * (1 - step / total_steps)


def update(loop, update):
    update.backward()
    thawed = update.number // STEPS_A_LAYER  # layers, counted from the top
    last = loop.model.config.num_hidden_layers
    for name, parameter in loop.model.base_model.named_parameters():
        layer = re.search(r"layer\.(\d+)\.", name)
        if last - (int(layer[1]) if layer else -1) > thawed:
            parameter.grad = None  # the optimizer leaves it as it is
    update.step()


if __name__ == "__main__":
    data, model, out = sys.argv[1:]
    with dongu.Loop(data, model=model, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
