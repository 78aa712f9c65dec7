"""What torch.no_grad() saves: all that backward would have needed."""

import torch
from tiny import tiny_bert


# region measure
def kept_bytes(model: torch.nn.Module, input_ids: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for backward, each tensor counted once, the weights not at all."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=input_ids).logits  # alive until here, and with it all that it was made from
    del logits
    return sum(kept.values())


# endregion

# region result
rows = torch.randint(5, 100, (8, 64), generator=torch.Generator().manual_seed(0))
for layers in (2, 4, 8):
    model = tiny_bert(layers).eval()
    with_gradient = kept_bytes(model, rows)
    with torch.no_grad():
        without = kept_bytes(model, rows)
    print(f"{layers} layers   {with_gradient / 2**20:4.1f} MiB are kept   {without} with torch.no_grad()")
    assert without == 0
# endregion

# region same
recorded = model(input_ids=rows).logits
with torch.no_grad():
    plain = model(input_ids=rows).logits
assert torch.equal(recorded, plain)  # the same numbers, to the bit
assert recorded.grad_fn is not None
assert plain.grad_fn is None
# endregion

# region dropout
model.train()
with torch.no_grad():
    assert not torch.equal(model(input_ids=rows).logits, model(input_ids=rows).logits)  # dropout is still on
# endregion
