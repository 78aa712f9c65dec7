"""What dynamic padding saves, and why the answers stay what they are."""

import numpy as np
import torch
from tiny import tiny_bert

# region lengths
LIMIT, BATCH = 128, 16
random = np.random.default_rng(0)
lengths = np.clip(random.lognormal(3.6, 0.4, size=4096).astype(int), 4, LIMIT)  # many short rows, few long ones


def computed(lengths: np.ndarray, batch: int) -> int:
    """Tokens that a model computes when each row is padded to the longest of its batch."""
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(int(each.max()) * len(each) for each in batches)


# endregion

# region result
real = int(lengths.sum())
ways = {
    "to the limit": len(lengths) * LIMIT,
    "to the longest of a batch": computed(lengths, BATCH),
    "the same, like with like": computed(np.sort(lengths), BATCH),
    "no padding": real,
}
for name, tokens in ways.items():
    print(f"{name:26} {tokens:8,} tokens   {1 - real / tokens:4.0%} are padding")
assert ways["to the longest of a batch"] < 0.6 * ways["to the limit"]
# endregion

# region same
model = tiny_bert().eval()
row = torch.tensor([[2, 17, 23, 42, 3]])
padded = torch.nn.functional.pad(row, (0, 60))  # with 0, the padding token
mask = (padded != 0).long()
with torch.no_grad():
    alone, among_padding = model(input_ids=row).logits, model(input_ids=padded, attention_mask=mask).logits
    without_mask = model(input_ids=padded).logits
assert torch.allclose(alone, among_padding, atol=1e-5)  # the mask keeps attention away from the padding
assert not torch.allclose(alone, without_mask, atol=1e-2)  # without it, padding is read as text
# endregion
