"""FGM: a second backward pass with the word embeddings moved to where the loss grows fastest."""

import sys

import dongu

EPSILON = 0.5


def update(loop, update):
    update.backward()
    words = loop.model.get_input_embeddings().weight
    with update.moved(words, by=EPSILON * words.grad / words.grad.norm()):
        update.backward()
    update.step()


if __name__ == "__main__":
    data, model, out = sys.argv[1:]
    with dongu.Loop(data, model=model, parts=__file__, epochs=2).run(out) as run:
        for step in run:
            print(f"step {step.number}  loss {step.loss:.3f}")
    print(run.result.metrics)
