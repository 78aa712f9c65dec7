"""Every row exactly once an epoch, in an order that is a function of the seed, padded as the field pads."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dongu.data.batches import EvalBatches, TrainUpdates
from dongu.data.collate import Collator, MicroBatch, MicroBatches
from dongu.data.loader import make_dataloader
from dongu.data.order import epoch_order, grouped_order, padding_share
from dongu.data.tokenized import Split
from dongu.data.tokens import Tokens, tokenize
from dongu.draws import dropout_seed
from dongu.model.load import load_tokenizer

ALL_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")
PLAIN = Collator(("input_ids", "attention_mask"), pad_token_id=0, pad_token_type_id=0, padding_side="right")


def make_split(rows: int, seed: int = 0) -> Split:
    """Rows of 1 to 6 tokens; every token of row i is i + 1, so that a batch tells its rows."""
    lengths = np.random.default_rng(seed).integers(1, 7, rows)
    tokens = Tokens(
        input_ids=np.repeat(np.arange(1, rows + 1), lengths).astype(np.int32),
        token_type_ids=None,
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        truncated=np.zeros(rows, dtype=bool),
    )
    return Split("train", np.arange(rows) + 1000, tokens, np.arange(rows, dtype=np.int64))


def make_updates(rows: int, batch_size: int, micro: int, process: int = 0, processes: int = 1) -> TrainUpdates:
    return TrainUpdates(
        make_split(rows),
        PLAIN,
        seed=5,
        batch_size=batch_size,
        micro_batch_size=micro,
        process=process,
        processes=processes,
    )


def counted_rows(update: MicroBatches) -> list[int]:
    return [row for micro_batch in update.micro_batches if micro_batch.examples for row in micro_batch.rows.tolist()]


# --- padding


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("columns", [1, 2])
def test_collator_pads_as_transformers_does(
    tiny_model: Callable[..., str],
    make_rows: Callable[..., list[dict[str, str]]],
    side: str,
    family: str,
    columns: int,
) -> None:
    from transformers import DataCollatorWithPadding

    tokenizer = load_tokenizer(tiny_model(family))
    tokenizer.padding_side = side
    rows = make_rows(30, pair=True)
    texts = [[row[f"sentence{i + 1}"] for row in rows] for i in range(columns)]
    targets = np.arange(30, dtype=np.int64) % 3
    split = Split("train", np.arange(30), tokenize(tokenizer, texts, 20, cache=False), targets)
    collate = Collator.of(tokenizer, ALL_COLUMNS)
    encoded = tokenizer(*texts, truncation=True, max_length=20)
    for chosen in (np.arange(7), np.array([29, 3, 3, 11]), np.array([5])):
        features = [{**{name: encoded[name][i] for name in encoded}, "label": int(targets[i])} for i in chosen.tolist()]
        expected = DataCollatorWithPadding(tokenizer)(features)
        batch = collate(split, chosen)
        assert set(batch) == set(expected)
        for name in expected:
            assert batch[name].dtype == expected[name].dtype, name
            assert torch.equal(batch[name], expected[name]), name


def test_padding_has_the_ids_of_the_tokenizer() -> None:
    tokens = Tokens(
        np.array([5, 6, 7, 8], np.int32), np.array([0, 1, 1, 0], np.uint8), np.array([0, 3, 4]), np.zeros(2, bool)
    )
    collate = Collator(ALL_COLUMNS, pad_token_id=9, pad_token_type_id=3, padding_side="left")
    batch = collate(Split("train", np.arange(2), tokens, None), np.array([0, 1]))
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 9, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1], [3, 3, 0]]


def test_only_the_columns_of_the_model() -> None:
    split = make_split(4)
    assert list(Collator(("input_ids",), 0, 0, "right")(split, np.arange(4))) == ["input_ids", "labels"]
    assert "token_type_ids" not in Collator(ALL_COLUMNS, 0, 0, "right")(split, np.arange(4))  # the tokenizer makes none


@pytest.mark.parametrize(
    ("targets", "dtype"),
    [(np.array([1, 0], np.int64), torch.int64), (np.array([0.5, 2], np.float32), torch.float32), (None, None)],
)
def test_labels_keep_their_type(targets: np.ndarray | None, dtype: torch.dtype | None) -> None:
    whole = make_split(2)
    batch = PLAIN(Split("test", whole.ids, whole.tokens, targets), np.array([1, 0]))
    if targets is None:
        assert "labels" not in batch
    else:
        assert batch["labels"].dtype == dtype
        assert batch["labels"].tolist() == targets[::-1].tolist()


# --- order


def test_an_order_is_a_permutation_of_its_own() -> None:
    orders = {(seed, epoch): epoch_order(50, seed, epoch) for seed in (0, 1, 42) for epoch in range(4)}
    for order in orders.values():
        assert sorted(order.tolist()) == list(range(50))
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)
    assert epoch_order(1, 42, 0).tolist() == [0]


def test_an_order_knows_no_global_state() -> None:
    first = epoch_order(50, 42, 3)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    again = epoch_order(50, 42, 3)
    assert (first == again).all()
    state = torch.get_rng_state()
    epoch_order(50, 42, 4)
    assert torch.equal(torch.get_rng_state(), state)  # and it touches none
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


def test_an_order_is_pinned() -> None:
    """A run that was stopped goes on with another release of dongu or numpy: the order must not change."""
    assert epoch_order(10, 42, 0).tolist() == [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]


def test_dropout_seeds() -> None:
    seeds = {dropout_seed(seed, step, place) for seed in (1, 11) for step in range(1, 300) for place in (0, 1, 4, 8)}
    assert len(seeds) == 2 * 299 * 4
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert dropout_seed(1, 23, 4) != dropout_seed(12, 3, 4)


# --- updates


def combinations() -> list[tuple[int, int, int, int]]:
    """Rows, batch, micro-batch, processes: the corners, and many drawn at random."""
    draw = random.Random(0)
    corners = [(1, 1, 1, 1), (1, 8, 8, 4), (9, 8, 8, 2), (8, 8, 3, 3), (17, 16, 4, 4), (5, 2, 1, 3), (16, 16, 16, 1)]
    drawn = [(draw.randint(1, 60), draw.randint(1, 20), draw.randint(1, 20), draw.randint(1, 5)) for _ in range(150)]
    return corners + drawn


def test_every_row_exactly_once_an_epoch_whatever_the_split() -> None:
    for rows, batch_size, micro, processes in combinations():
        case = f"{rows} rows, batch {batch_size}, micro {micro}, {processes} processes"
        shares = [make_updates(rows, batch_size, micro, process, processes) for process in range(processes)]
        steps = shares[0].steps_per_epoch
        assert steps == -(-rows // batch_size), case
        for epoch in range(2):
            seen = []
            order = epoch_order(rows, 5, epoch).tolist()
            for index in range(epoch * steps, (epoch + 1) * steps):
                updates = [share[index] for share in shares]
                together = [row for update in updates for row in counted_rows(update)]
                check_shares(updates, together, micro, case)
                seen += together
            assert seen == order, case  # the processes' shares, one after the other, are the order of one process


def check_shares(updates: list[MicroBatches], together: list[int], micro: int, case: str) -> None:
    """The shares of one update: everybody has something to compute, and every position is right."""
    examples = {update.examples for update in updates}
    assert examples == {len(together)}, case
    sizes = [sum(micro_batch.examples for micro_batch in update.micro_batches) for update in updates]
    assert max(sizes) - min(sizes) <= 1, case
    position = 0
    for update in updates:
        assert update.micro_batches, case
        for micro_batch in update.micro_batches:
            assert micro_batch.position == position, case
            assert 1 <= len(micro_batch.rows) <= micro, case
            assert micro_batch.examples in (0, len(micro_batch.rows)), case
            position += micro_batch.examples
    assert position == len(together), case


def test_a_micro_batch_holds_its_rows() -> None:
    update = make_updates(11, 11, 4)[0]
    assert [len(micro_batch.rows) for micro_batch in update.micro_batches] == [4, 4, 3]
    for micro_batch in update.micro_batches:
        ids, mask = micro_batch.tensors["input_ids"], micro_batch.tensors["attention_mask"]
        assert ids[:, 0].tolist() == (micro_batch.rows + 1).tolist()
        assert micro_batch.tensors["labels"].tolist() == micro_batch.rows.tolist()
        assert micro_batch.tokens == int(mask.sum()) == int((ids > 0).sum())
        assert ids.shape[1] == int(mask.sum(1).max())  # no column of padding alone


def test_a_stand_in_row_counts_nothing() -> None:
    update = make_updates(9, 8, 8, process=1, processes=2)[1]  # one row is left for two processes
    (micro_batch,) = update.micro_batches
    assert (update.examples, micro_batch.examples, len(micro_batch.rows)) == (1, 0, 1)


def test_any_update_can_be_asked_for_in_any_order() -> None:
    forwards, backwards = make_updates(23, 4, 3), make_updates(23, 4, 3)
    there = [counted_rows(forwards[index]) for index in range(18)]
    back = [counted_rows(backwards[index]) for index in reversed(range(18))]
    assert there == back[::-1]


# --- evaluation and the loader


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 1), (7, 7), (7, 3), (7, 100), (12, 4), (200, 5)])
def test_evaluation_covers_the_rows_shortest_first(rows: int, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dongu.data.batches.USUAL_TOKENS", 4)
    split = make_split(rows)
    batches = EvalBatches(split, PLAIN, batch_size)
    items = [batches[index] for index in range(len(batches))]
    seen = np.concatenate([item.rows for item in items])
    assert sorted(seen) == list(range(rows))
    assert (np.diff(split.tokens.lengths[seen]) >= 0).all()
    for item, following in zip(items, [*items[1:], None], strict=True):
        assert item.padded_tokens == item.tensors["input_ids"].numel()
        assert item.padded_tokens <= 4 * batch_size or len(item.rows) == 1
        if following is not None:  # one more row would be too many
            longest = int(split.tokens.lengths[following.rows[0]])
            assert (len(item.rows) + 1) * longest > 4 * batch_size


@pytest.mark.parametrize("alike", [True, False])
def test_rows_of_like_lengths_make_a_batch(alike: bool) -> None:
    lengths = [10] * 12 + [15] * 2 + [16] * 3 + [60] * 9
    tokens = Tokens(np.ones(sum(lengths), np.int32), None, np.cumsum([0, *lengths]), np.zeros(len(lengths), bool))
    split = Split("texts", np.arange(len(lengths)), tokens, None)
    batches = EvalBatches(split, PLAIN, 32, alike=alike)
    rows = [batches[index].rows.tolist() for index in range(len(batches))]
    # Three rows of 16 tokens are too few for a batch of their own, so one of 60 tokens stands with them.
    assert [len(batch) for batch in rows] == ([14, 8, 4] if alike else [26])


def flat(item: Any) -> list[MicroBatch]:
    return item.micro_batches if isinstance(item, MicroBatches) else [item]


@pytest.mark.parametrize("kind", ["updates", "evaluation"])
def test_data_workers_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dongu.data.batches.USUAL_TOKENS", 4)
    dataset: Any = make_updates(23, 4, 3) if kind == "updates" else EvalBatches(make_split(23), PLAIN, 4)
    indices = range(3, 9) if kind == "updates" else range(1, 6, 2)
    here, there = (list(make_dataloader(dataset, indices, workers=n, pin_memory=False)) for n in (0, 2))
    assert len(here) == len(there) == len(indices)
    for index, a, b in zip(indices, here, there, strict=True):
        for x, y, z in zip(flat(a), flat(b), flat(dataset[index]), strict=True):
            assert x.rows.tolist() == y.rows.tolist() == z.rows.tolist()
            assert (x.position, x.examples, x.tokens) == (y.position, y.examples, y.tokens)
            assert x.tensors.keys() == y.tensors.keys()
            for name, tensor in x.tensors.items():
                assert torch.equal(tensor, y.tensors[name])
                assert torch.equal(tensor, z.tensors[name])


# --- like lengths


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 400, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_a_grouped_epoch_has_each_row_once_and_is_a_function_of_seed_and_epoch(rows: int, batch_size: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 60, rows)
    orders = [grouped_order(lengths, batch_size, seed, epoch) for seed, epoch in ((3, 0), (3, 0), (3, 1), (4, 0))]
    for order in orders:
        assert sorted(order) == list(range(rows))
    assert (orders[0] == orders[1]).all()
    if rows > 100:
        assert (orders[0] != orders[2]).any()
        assert (orders[0] != orders[3]).any()


def test_grouping_takes_most_of_the_padding_away_and_keeps_chance() -> None:
    lengths = np.random.default_rng(1).integers(3, 120, 3000)
    grouped = grouped_order(lengths, 8, seed=3, epoch=0)
    assert padding_share(lengths, grouped, 8) < 0.1 * padding_share(lengths, epoch_order(3000, 3, 0), 8)
    firsts = lengths[grouped[:2400].reshape(-1, 8)].mean(axis=1)
    assert abs(np.corrcoef(firsts, np.arange(300))[0, 1]) < 0.15, "short and long batches come in any order"
    # Rows that share a batch in one epoch do not in the next: the pools are drawn anew.
    again = grouped_order(lengths, 8, seed=3, epoch=1)
    first, second = (
        {pair for batch in order.reshape(-1, 8).tolist() for pair in itertools.combinations(sorted(batch), 2)}
        for order in (grouped, again)
    )
    assert len(first & second) < 0.1 * len(first)


def test_the_share_of_padding_is_that_of_the_batches() -> None:
    split = make_split(50)
    lengths = split.tokens.lengths
    order = epoch_order(50, 5, 0)
    batches = [PLAIN(split, order[start : start + 8]) for start in range(0, 50, 8)]
    cells = sum(batch["attention_mask"].numel() for batch in batches)
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert padding_share(lengths, order, 8) == pytest.approx(1 - real / cells)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_grouped_updates_cover_the_epoch_over_all_processes(processes: int) -> None:
    seen: list[int] = []
    for process in range(processes):
        updates = make_updates(50, 8, 3, process, processes)
        updates.group_by_length = True
        for index in range(updates.steps_per_epoch):
            seen += counted_rows(updates[index])
    assert sorted(seen) == list(range(50))
