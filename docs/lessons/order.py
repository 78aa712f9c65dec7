"""The order of the loop: what each line needs from the one before it."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

# region loop
STEPS = 4
inputs, targets = torch.eye(4), torch.tensor([[1.0], [2.0], [3.0], [4.0]])


class Loop:
    """A linear model, its optimizer, and a rate that falls from 1 in a straight line."""

    def __init__(self) -> None:
        self.model = nn.Linear(4, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / STEPS)
        self.rates: list[float] = []  # that the updates used

    def forward(self) -> Tensor:
        return nn.functional.mse_loss(self.model(inputs), targets)

    def step(self) -> None:
        self.rates.append(round(self.schedule.get_last_lr()[0], 3))
        self.optimizer.step()


def train(update: Callable[[Loop], None]) -> tuple[float, list[float]]:
    """The loss after four updates, and the learning rates they used."""
    loop = Loop()
    for _ in range(STEPS):
        update(loop)
    return loop.forward().item(), loop.rates


# endregion


# region right
def right(loop: Loop) -> None:
    loss = loop.forward()
    loss.backward()
    loop.step()
    loop.schedule.step()
    loop.optimizer.zero_grad()


# endregion


# region wrong
def never_zeroed(loop: Loop) -> None:
    loop.forward().backward()
    loop.step()
    loop.schedule.step()


def zeroed_too_early(loop: Loop) -> None:
    loop.forward().backward()
    loop.optimizer.zero_grad()
    loop.step()
    loop.schedule.step()


def step_before_backward(loop: Loop) -> None:
    loss = loop.forward()
    loop.step()
    loop.schedule.step()
    loop.optimizer.zero_grad()
    loss.backward()


def schedule_before_step(loop: Loop) -> None:
    loop.forward().backward()
    loop.schedule.step()
    loop.step()
    loop.optimizer.zero_grad()


# endregion

# region result
untrained = Loop().forward().item()
print(f"{'untrained':22} loss {untrained:.3f}")
losses = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for update in (right, never_zeroed, zeroed_too_early, step_before_backward, schedule_before_step):
        losses[update], rates = train(update)
        print(f"{update.__name__:22} loss {losses[update]:.3f}   rates {rates}")
# endregion

# region claims
assert losses[never_zeroed] > 5 * losses[right]  # old gradients push on: the weights swing past their aim
assert losses[zeroed_too_early] == untrained  # nothing was learnt, and nothing complained
assert losses[right] < losses[step_before_backward] < untrained  # a step behind, and the first one for nothing
assert losses[right] < losses[schedule_before_step] < untrained  # the first rate is skipped, the last one is 0
assert any("lr_scheduler.step()` before `optimizer.step()" in str(warning.message) for warning in caught)

loop = Loop()
loop.forward().backward()
once = loop.model.weight.grad.clone()
loop.forward().backward()
assert torch.equal(loop.model.weight.grad, 2 * once)  # backward adds; only zero_grad takes away
# endregion
