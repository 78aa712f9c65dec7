"""What accumulation must divide by: the examples of the whole update."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# region setup
torch.manual_seed(0)
model = nn.Linear(16, 3).double()
inputs, labels = torch.randn(8, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def gradient(losses: Sequence[Tensor]) -> Tensor:
    """The gradient of the sum of some losses, each with a backward of its own."""
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return model.weight.grad.clone()


def off(one: Tensor, other: Tensor) -> float:
    """How far one gradient is from the other, as a share of the other."""
    return float((one - other).norm() / other.norm())


whole = gradient([cross_entropy(model(inputs), labels)])
# endregion

# region means
parts = [slice(0, 3), slice(3, 6), slice(6, 8)]  # 8 rows, where 3 fit into memory
means = gradient([cross_entropy(model(inputs[part]), labels[part]) / len(parts) for part in parts])
sums = gradient([cross_entropy(model(inputs[part]), labels[part], reduction="sum") / 8 for part in parts])
print(f"mean of the means           {off(means, whole):.1%} off")
print(f"sum over rows, by all rows  {off(sums, whole):.1%} off")
assert off(sums, whole) < 1e-12
assert off(means, whole) > 0.01
# endregion

# region last
last = gradient([cross_entropy(model(inputs[:3]), labels[:3]) / 4])  # 4 parts were planned, the epoch ended after 1
right = gradient([cross_entropy(model(inputs[:3]), labels[:3], reduction="sum") / 3])
print(f"last update of the epoch    {last.norm() / right.norm():.2f} times its gradient")
# endregion

# region equal
halves = [slice(0, 4), slice(4, 8)]
means = gradient([cross_entropy(model(inputs[half]), labels[half]) / len(halves) for half in halves])
assert off(means, whole) < 1e-12  # parts of one size: here the mean of the means is right
# endregion
