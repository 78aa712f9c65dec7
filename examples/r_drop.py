"""R-Drop: two forward passes with different dropout, which shall agree."""

import sys

import torch.nn.functional as F

import dongu

WEIGHT = 1.0


def loss(model, batch):
    once, again = (model(**batch.inputs).logits.float().log_softmax(-1) for _ in range(2))
    truth = F.nll_loss(once, batch.labels, reduction="none") + F.nll_loss(again, batch.labels, reduction="none")
    apart = (
        F.kl_div(once, again, reduction="none", log_target=True)
        + F.kl_div(again, once, reduction="none", log_target=True)
    ).sum(-1)
    return truth / 2 + WEIGHT * apart / 2


if __name__ == "__main__":
    data, model, out = sys.argv[1:]
    with dongu.Loop(data, model=model, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
