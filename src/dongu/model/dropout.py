"""The probabilities of dropout in a model's config, by whatever names its family has for them."""

from __future__ import annotations

from typing import Any

from dongu.errors import ModelError

LAYERS_LEFT_OUT = ("layerdrop", "drop_path")  # which leave out whole layers


def dropouts(config: Any) -> dict[str, float]:
    """The probabilities by their names; those of BERT are `hidden_dropout_prob` and `attention_probs_dropout_prob`."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if "drop" in name
        and not any(other in name for other in LAYERS_LEFT_OUT)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }


def set_dropout(config: Any, probability: float) -> None:
    """Give each of them this probability, so that a model that is made of the config has it everywhere.

    Raises:
        ModelError: the config has none.
    """
    config = config.get_text_config()
    if not (names := dropouts(config)):
        what = f"`{config.model_type}` has no dropout that could be set"
        raise ModelError(what, where=f"--dropout {probability:g}", hint="leave it out")
    for name in names:
        setattr(config, name, probability)
