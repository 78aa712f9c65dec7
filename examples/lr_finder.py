"""A learning-rate finder: the rate grows from update to update until the loss explodes."""

import sys

import dongu

LOWEST, HIGHEST, STEPS = 1e-6, 1e-1, 40

if __name__ == "__main__":
    data, model = sys.argv[1:]
    loop = dongu.Loop(data, model=model, max_steps=STEPS)
    smooth = best = None
    for update in loop.updates():
        for group in loop.optimizer.param_groups:
            group["lr"] = LOWEST * (HIGHEST / LOWEST) ** ((update.number - 1) / (STEPS - 1))
        update.backward()
        step = update.step()
        smooth = step.loss if smooth is None else 0.8 * smooth + 0.2 * step.loss
        best = (smooth, step.learning_rate) if best is None else min(best, (smooth, step.learning_rate))
        print(f"{step.learning_rate:.2e}  {smooth:.4f}")
        if smooth > 2 * best[0]:
            break
    print(f"the loss is lowest at {best[1]:.1e}; a third of it is a good --learning-rate")
