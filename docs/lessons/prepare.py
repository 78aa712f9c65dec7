"""What accelerator.prepare() does to model, optimizer and loader."""

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.utils.data import DataLoader

# region prepare
accelerator = Accelerator(cpu=True, mixed_precision="bf16")
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.AdamW(model.parameters())
loader = DataLoader(torch.arange(10), batch_size=4)
prepared_model, prepared_optimizer, prepared_loader = accelerator.prepare(model, optimizer, loader)
# endregion

# region model
seen = {}
model[0].register_forward_hook(lambda *call: seen.update(inside=call[-1].dtype))
logits = prepared_model(torch.ones(1, 4))
assert prepared_model is model  # on one process; on several it would be wrapped in DistributedDataParallel
assert next(model.parameters()).dtype == torch.float32  # the weights stay what they are
assert seen["inside"] == torch.bfloat16  # the matrix products do not
assert logits.dtype == torch.float32  # and what comes out is fp32 again
# endregion

# region optimizer
assert type(prepared_optimizer).__name__ == "AcceleratedOptimizer"
assert prepared_optimizer.optimizer is optimizer  # the same one inside, with the same weights
assert prepared_optimizer.param_groups is optimizer.param_groups
# endregion

# region loader
assert type(prepared_loader).__name__ == "DataLoaderShard"
assert next(iter(prepared_loader)).device == accelerator.device  # it moves the batches; no .to(device) any more

for process in (0, 1):
    share = prepare_data_loader(loader, num_processes=2, process_index=process, put_on_device=False)
    print(f"process {process} of 2   rows {[batch.tolist() for batch in share]}")
# endregion

# region twice
rows = [
    row
    for process in (0, 1)
    for batch in prepare_data_loader(loader, num_processes=2, process_index=process, put_on_device=False)
    for row in batch.tolist()
]
print(f"{len(loader.dataset)} rows became {len(rows)}")
assert set(rows) == set(range(10))  # every row is there,
assert len(rows) > 10  # and some are there twice, so that all processes have batches of one size
# endregion
