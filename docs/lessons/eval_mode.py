"""What model.eval() changes: dropout, and nothing else that a transformer has."""

import torch
from tiny import tiny_bert
from torch import nn

# region twice
model = tiny_bert()
row = {"input_ids": torch.tensor([[2, 17, 23, 42, 3]])}

model.train()
first, second = model(**row).logits, model(**row).logits
assert not torch.equal(first, second)

model.eval()
third, fourth = model(**row).logits, model(**row).logits
assert torch.equal(third, fourth)
# endregion

# region rate
torch.manual_seed(0)
ones = torch.ones(1_000_000)
dropout = nn.Dropout(0.1)
for mode, kept in (("training", dropout.train()(ones)), ("evaluation", dropout.eval()(ones))):
    zeros = (kept == 0).float().mean()
    print(f"{mode:12} {zeros:.1%} are 0, the others {kept.max():.3f}, the mean {kept.mean():.2f}")
# endregion

# region only
changed = {type(module).__name__ for module in model.modules() if not list(module.children())}
print(f"layers       {', '.join(sorted(changed))}")
assert third.requires_grad  # gradients are still recorded: that is the business of torch.no_grad()
norm, numbers = nn.LayerNorm(8), torch.arange(8.0)
assert torch.equal(norm.train()(numbers), norm.eval()(numbers))  # LayerNorm does the same in both modes
# endregion

# region forgotten
with torch.no_grad():
    model.train()
    answers = torch.cat([model(**row).logits.softmax(-1)[:, 1] for _ in range(100)])
    low, high = answers.min(), answers.max()
    model.eval()
    answer = model(**row).logits.softmax(-1)[0, 1]
print(f"one row      {answer:.2f} in evaluation; 100 times in training mode: {low:.2f} to {high:.2f}")
assert high - low > 0.05
# endregion
