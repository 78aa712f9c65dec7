"""Every model type that transformers has a sequence classifier for, tiny and random: does dongu train it, and how?

`python benchmarks/model_types.py` prints the table, `--write` puts it into docs/models.md. A type is tried from the
folder to the answers: two steps, an evaluation, the model saved, read back, and asked again row by row; then two steps
of LoRA. If it is computed without padding, logits and gradients are compared with those of its own forward. What dongu
refuses has to be refused in one sentence; anything else is a fault, and ends the command with 1.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

import dongu
from dongu.best import save_best
from dongu.data.batches import EvalBatches
from dongu.data.collate import Collator
from dongu.data.tokenized import Split
from dongu.engine.packed import PaddingFree, flatten
from dongu.errors import DonguError
from dongu.evaluate import predict_logits
from dongu.judge.ranking import softmax
from dongu.model.load import load_classifier, model_columns, reads_last_token
from dongu.model.lora import add_lora, count_beyond, count_parameters, merged
from dongu.model.safety import classifiers
from dongu.run.derived import LEFT_OUT
from dongu.run.effort import Effort
from dongu.run.folder import RunFolder
from pages import put_between
from word_tokenizer import CLS, PAD, SEP, SPECIAL, word_tokenizer

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
WORDS = [f"word{i}" for i in range(55)]
HIDDEN = 16
TOKENS = 24  # a row at most
SAME = 1e-5  # of answers that shall be the same: rounding is a tenth of it
EXACT, EXACT_GRADIENTS = 1e-6, 1e-5  # of logits and gradients with and without padding, relative
BEGIN, END = "<!-- model types: table -->", "<!-- /model types: table -->"

# What a configuration calls its sizes, and how large it is here.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embed_dim"), HIDDEN),
    **dict.fromkeys(("word_embed_proj_dim", "embedding_size"), HIDDEN),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 1),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim", "dff", "d_inner"), 32),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    "first_k_dense_replace": 0,
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "v_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 4),
    **dict.fromkeys(("bos_token_id", "cls_token_id", "decoder_start_token_id"), CLS),
    **dict.fromkeys(("eos_token_id", "sep_token_id"), SEP),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    "vocab_size": len(WORDS) + 9,  # a tokenizer of the model's own class may add some
    "pad_token_id": PAD,
    "max_2d_position_embeddings": 32,
    "sliding_window": 8,
}
LINEAR_ATTENTION = {
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
HYBRID = {"mamba_d_state": 4, "attention_hidden_size": 2 * HIDDEN, "use_mamba_kernels": False}
# Sizes that a type has beside these, or that have to fit each other.
OWN_SIZES: dict[str, dict[str, Any]] = {
    "reformer": {
        "axial_pos_shape": (8, 8), "axial_pos_embds_dim": (8, 8), "attention_head_size": 8, "attn_layers": ["local"],
        "feed_forward_size": 32, "is_decoder": False, "local_attn_chunk_length": 8,
    },
    "funnel": {"block_sizes": [1, 1], "d_head": 8},
    "mobilebert": {"intra_bottleneck_size": 16, "true_hidden_size": 16, "num_feedforward_networks": 1},
    "xlnet": {"d_head": 8},
    "perceiver": {
        "d_latents": HIDDEN, "num_latents": 4, "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
    },
    "gpt_neo": {"attention_types": [[["local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "longformer": {"attention_window": [8]},
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "layoutlmv3": {"visual_embed": False, "coordinate_size": 3, "shape_size": 2, "input_size": 32},
    "roc_bert": {
        "pronunciation_vocab_size": 64, "shape_vocab_size": 64, "pronunciation_embed_dim": 8, "shape_embed_dim": 8,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "canine": {
        "num_hash_buckets": 64, "local_transformer_stride": 4, "downsampling_rate": 2, "upsampling_kernel_size": 2,
    },
    "jamba": {
        **HYBRID, "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
    },
    "zamba": {
        **HYBRID, "num_hidden_layers": 3, "n_mamba_heads": 2, "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "attention_head_dim": 16,
    },
    "zamba2": {
        **HYBRID, "num_hidden_layers": 2, "layers_block_type": ["mamba", "hybrid"], "attention_head_dim": 16,
        "n_mamba_heads": 4, "mamba_headdim": 8, "mamba_ngroups": 1, "chunk_size": 8, "use_mem_eff_path": False,
    },
    "esm": {"vocab_list": None, "position_embedding_type": "rotary", "mask_token_id": 4},
    "nystromformer": {"segment_means_seq_len": 8, "num_landmarks": 8},
    **{name: {"head_dim": 4} for name in ("axk1", "deepseek_v3")},
    **{name: {"head_dim": 8} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "convbert": {"num_hidden_layers": 2},  # two layers of convolution reach the token that the head reads
    "lilt": {"hidden_size": 24},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text"), LINEAR_ATTENTION),
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "tapas": {"type_vocab_sizes": [3, 8, 8, 2, 8, 8, 10]},
    "phi3": {"rope_scaling": None},
    "minimax": {"block_size": 8},
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of a type: `engine` is `packed`, `plain`, `refused`, `not tried`, or `fault`."""

    model_type: str
    kind: str  # encoder, decoder or encoder-decoder
    engine: str
    lora: str = ""  # yes, no, or in part
    note: str = ""

    def row(self) -> str:
        """Of the table."""
        return f"| `{self.model_type}` | {self.kind} | {self.engine} | {self.lora} | {self.note} |"


def tiny_config(model_type: str, **given: Any) -> Any:
    """A configuration of this type, as small as it can be but for what is given."""
    kind = CONFIG_MAPPING[model_type]
    usual = kind()
    start = {"decoder_start_token_id": CLS} if usual.is_encoder_decoder else {}
    sizes = {**start, **_sizes_of(usual, getattr(kind, "attribute_map", {})), **OWN_SIZES.get(model_type, {})}
    sizes |= {name: _tiny_part(part) for name, part in vars(usual).items() if isinstance(part, PreTrainedConfig)}
    return kind(**{**sizes, **given})


def _tiny_part(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration within another one, as that takes it."""
    values = {name: value for name, value in config.to_dict().items() if name not in ("layer_types", "mlp_layer_types")}
    parts = {name: _tiny_part(part) for name, part in vars(config).items() if isinstance(part, PreTrainedConfig)}
    return {**values, **_sizes_of(config, {}), **OWN_SIZES.get(config.model_type, {}), **parts}


def _sizes_of(config: Any, renamed: Mapping[str, str]) -> dict[str, Any]:
    """Those of `SIZES` that it has; a rank or a size of a head that is None stays so."""
    unset = {name for name in ("q_lora_rank", "head_dim") if getattr(config, name, None) is None}
    return {
        name: size for name, size in SIZES.items() if (name in vars(config) or name in renamed) and name not in unset
    }


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Rows of 3 to 12 words."""
    draw = np.random.default_rng(seed)
    return [
        {"text": " ".join(draw.choice(WORDS, draw.integers(3, 13))), "label": f"class{i % 2}"} for i in range(count)
    ]


DATA: Any = {"train": rows(16, 0), "validation": rows(6, 1)}
OPTIONS: dict[str, Any] = {"device": "cpu", "batch_size": 8, "learning_rate": 5e-3, "max_steps": 2, "threads": 1}


def tiny_tokenizer(model_type: str) -> Any:
    """A token a word; for Qwen, whose own class reads the file as pairs of bytes, one for `word` and for each digit."""
    last = model_type == "xlnet"  # whose head reads the last token
    options: dict[str, Any] = {
        "padding_side": "left" if last else "right",
        "eos_token": "[SEP]",
        "bos_token": "[CLS]",
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if model_type not in ("qwen2", "qwen3_5"):
        return word_tokenizer(WORDS, TOKENS, "$A [SEP] [CLS]" if last else "[CLS] $A [SEP]", **options)
    parts = [*SPECIAL, *"Ġword0123456789", "wo", "wor", "Ġw", "Ġwo", "Ġwor", "Ġword"]
    merges = [("Ġ", "w"), ("Ġw", "o"), ("Ġwo", "r"), ("Ġwor", "d"), ("w", "o"), ("wo", "r")]
    tokenizer = Tokenizer(models.BPE({part: i for i, part in enumerate(dict.fromkeys(parts))}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=TOKENS, **options)


def attempt(model_type: str, folder: Path) -> Outcome:
    """Try a type in an empty folder."""
    try:
        config = tiny_config(model_type)
        torch.manual_seed(7)
        model = AutoModelForSequenceClassification.from_config(config)
    except Exception as error:  # noqa: BLE001 - each configuration checks itself in its own way
        return Outcome(model_type, "", "not tried", note=said(error))
    kind = "encoder-decoder" if config.is_encoder_decoder else "decoder" if reads_last_token(config) else "encoder"
    tiny_tokenizer(model_type).save_pretrained(folder)
    model.save_pretrained(folder)
    try:
        return train(model_type, kind, folder)
    except DonguError as error:
        return Outcome(model_type, kind, "refused" if error.exit_code == 2 else "fault", note=said(error))
    except Exception as error:  # noqa: BLE001 - what this looks for
        return Outcome(model_type, kind, "fault", note=said(error))


def difference(model: Any, *, pads: bool = True) -> tuple[float, float]:
    """Between the model's own forward on padded rows and the padding-free one: of logits and of gradients, relative.

    Rows have from 1 to 20 tokens, with padding tokens inside and at the end, or without them: then a head that reads
    the last token reads the end of each row. A bias rounds as its weight does, so a gradient is measured by the largest
    one of its module; those that vanish, by the largest of all.
    """
    lengths, draw = torch.tensor([7, 20, 3, 20, 1, 12, 9]), torch.Generator().manual_seed(0)
    mask = (torch.arange(20) < lengths[:, None]).long()
    input_ids = torch.randint(len(SPECIAL), len(WORDS), mask.shape, generator=draw)
    if pads:
        input_ids[1, 12:14] = input_ids[3, 17:] = PAD
    inputs = {"input_ids": input_ids * mask, "attention_mask": mask}
    if "token_type_ids" in model_columns(model) and getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.randint(0, 2, mask.shape, generator=draw) * mask
    results, packed = [], PaddingFree(model.eval()).eval()
    with torch.no_grad():
        packed(**flatten(inputs))  # as before each run, whose first forward says whether the last layer can be cut
    for computed, given in ((model, inputs), (packed, flatten(inputs))):
        model.zero_grad()
        logits = computed(**given).logits
        (logits * torch.linspace(-1, 2, logits.numel()).view_as(logits)).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((logits.detach(), gradients))
    (wanted, wanted_gradients), (got, got_gradients) = results
    norms: dict[str, float] = {}
    for name, gradient in wanted_gradients.items():
        module = name.rpartition(".")[0]
        norms[module] = max(norms.get(module, 0.0), float(gradient.norm()))
    least = 1e-2 * max(norms.values())
    of_gradients = max(
        float((got_gradients[name] - gradient).norm()) / max(norms[name.rpartition(".")[0]], least)
        for name, gradient in wanted_gradients.items()
    )
    return float((got - wanted).abs().max() / wanted.abs().max()), of_gradients


def is_exact(of_logits: float, of_gradients: float) -> bool:
    """Whether such a difference is rounding."""
    return of_logits <= EXACT and of_gradients <= EXACT_GRADIENTS


def apart(model: Any) -> list[tuple[float, float]]:
    """What `difference` has where it is no rounding: fp32's may be above the bounds, and fp64's is not."""
    for pads in (True, False):
        differences = [difference(model, pads=pads)]
        if not is_exact(*differences[0]):
            differences.append(difference(model.double(), pads=pads))
        if not is_exact(*differences[-1]):
            return differences
    return []


def train(model_type: str, kind: str, folder: Path) -> Outcome:
    """Two steps, an evaluation, the model saved and read back, its answers alone, and with LoRA."""
    loop = dongu.Loop(DATA, model=str(folder), **OPTIONS)
    effort = Effort()
    for step in loop:
        effort.add(step)
    effort.close(loop)
    trained = loop.evaluate().logits
    run = RunFolder(folder / "run")
    run.path.mkdir()
    save_best(loop, run)
    saved, tokenizer = load_classifier(run.model)
    split, collate = loop.splits["validation"], Collator.of(tokenizer, model_columns(saved))
    reloaded = predict_logits(saved, EvalBatches(split, collate, 32), loop.accelerator)
    alone = np.concatenate([answer(saved, collate, split, row) for row in range(len(split))])
    random = model_type == "yoso"  # it hashes by chance, and answers otherwise each time
    if not random and np.abs(reloaded - trained).max() > SAME * np.abs(trained).max():
        return Outcome(model_type, kind, "fault", note="it answers otherwise when it is read back")
    if np.abs(softmax(alone) - softmax(reloaded)).max() > SAME and not loop.alone:
        return Outcome(model_type, kind, "fault", note="it answers otherwise alone, and is not said to")
    note = "answers depend on the batch" if loop.alone else ""
    if loop.config.engine == "packed":
        if differences := apart(saved):
            return Outcome(model_type, kind, "fault", note=f"without padding it differs by {differences}")
    else:
        note = "; ".join(filter(None, [note, str(loop.fallback).rpartition("here: ")[2]]))
    return Outcome(model_type, kind, str(loop.config.engine), with_lora(saved, collate, split), note)


def answer(model: Any, collate: Collator, split: Split, row: int) -> np.ndarray:
    """Logits of one row, (1, labels)."""
    inputs = collate(split, np.array([row]))
    inputs.pop("labels")
    with torch.no_grad():
        logits: np.ndarray = model.eval()(**inputs).logits.numpy()
    return logits


def with_lora(model: Any, collate: Collator, split: Split) -> str:
    """`yes`, `in part` where much of the model is in no linear layer, or `no`.

    Raises:
        ValueError: merged into the weights it is another model.
    """
    try:
        add_lora(model, 2, seed=1)
    except DonguError:
        return "no"
    inputs = collate(split, np.arange(len(split)))
    inputs.pop("labels")
    model(**inputs).logits.square().sum().backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and parameter.grad is not None:  # None: the weight is read, and not its layer called
                parameter.normal_(std=0.1)
    torch.manual_seed(1)  # for YOSO, which draws
    beside = answer(model, collate, split, 0)
    torch.manual_seed(1)
    with merged(model):
        inside = answer(model, collate, split, 0)
    if not np.allclose(inside, beside, rtol=1e-3, atol=1e-4):
        raise ValueError("LoRA beside the weights answers otherwise than in them")
    return "in part" if count_beyond(model) >= LEFT_OUT * count_parameters(model)[0] else "yes"


def said(error: Exception) -> str:
    """An error in a cell of the table, without the folder that it names."""
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, DonguError):
        return error.what
    return f"{type(error).__name__}: {line.strip()}".partition(". ")[0].replace("|", "\\|")


def table(outcomes: Iterable[Outcome]) -> str:
    """The table of the page."""
    head = "| `model_type` | is | engine | `--lora` | |\n| --- | --- | --- | --- | --- |"
    return "\n".join([head, *(outcome.row() for outcome in outcomes)])


def attempts(model_types: Iterable[str]) -> Iterator[Outcome]:
    """Try each, in a folder that is gone afterwards."""
    for model_type in model_types:
        with tempfile.TemporaryDirectory(prefix="dongu-") as folder:
            yield attempt(model_type, Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="those to try (default: all)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/models.md")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")  # transformers' own
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    outcomes = []
    for outcome in attempts(args.types or classifiers()):
        print(outcome.row(), flush=True)
        outcomes.append(outcome)
    if args.write:
        put_between(PAGE, BEGIN, table(outcomes), END)
    return int(any(outcome.engine == "fault" for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
