"""Why AdamW is not Adam with L2: what becomes of two weights that nothing is to be learnt for."""

import torch

# region sgd
RATE, DECAY = 1e-3, 0.1

weight = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
weight.grad = torch.full_like(weight, 3.0)
torch.optim.SGD([weight], lr=RATE, weight_decay=DECAY).step()
assert abs(weight.item() - (0.5 * (1 - RATE * DECAY) - RATE * 3.0)) < 1e-12
# endregion

# region experiment
STEPS = 1000


def decayed(optimizer_class: type[torch.optim.Optimizer], noise: float) -> float:
    """Where a weight of 1 ends whose gradient is +noise, -noise, +noise, …: only the decay can move it for good."""
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = optimizer_class([weight], lr=RATE, weight_decay=DECAY)
    for step in range(STEPS):
        weight.grad = torch.full_like(weight, noise if step % 2 else -noise)
        optimizer.step()
    return weight.item()


# endregion

# region result
with_l2 = {noise: decayed(torch.optim.Adam, noise) for noise in (10.0, 0.1, 0.001)}
decoupled = {noise: decayed(torch.optim.AdamW, noise) for noise in with_l2}
print("gradient     Adam with L2     AdamW")
for noise in with_l2:
    print(f"{noise:8g}     {with_l2[noise]:12.3f}     {decoupled[noise]:5.3f}")

assert with_l2[10.0] > 0.98  # hardly any decay
assert with_l2[0.001] < 0.3  # most of it is gone
assert all(abs(weight - (1 - RATE * DECAY) ** STEPS) < 2e-3 for weight in decoupled.values())
# endregion


# region formula
def first_step(weight: float, gradient: float) -> float:
    """AdamW's first step in one line: the decay, then the learning rate in the direction of the gradient's sign."""
    return weight * (1 - RATE * DECAY) - RATE * (1 if gradient > 0 else -1)


for gradient in (1000.0, 1.0, -0.001):
    weight = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
    weight.grad = torch.full_like(weight, gradient)
    torch.optim.AdamW([weight], lr=RATE, weight_decay=DECAY).step()
    assert abs(weight.item() - first_step(0.5, gradient)) < 1e-7
# endregion
