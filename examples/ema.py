"""An average of the weights over time, which is what is evaluated and kept."""

import sys

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import dongu


def setup(loop):
    loop.own["average"] = AveragedModel(loop.model, multi_avg_fn=get_ema_multi_avg_fn(0.99))


def update(loop, update):
    update.backward()
    update.step()
    loop.own["average"].update_parameters(loop.model)


def eval_model(loop):
    return loop.own["average"].module


if __name__ == "__main__":
    data, model, out = sys.argv[1:]
    with dongu.Loop(data, model=model, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
