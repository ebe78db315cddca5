"""What a language model writes after some prompts."""

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from noether.callback import Callback, DataPass, factory
from noether.effects import Write
from noether.hooks.outputs.names import prefix, stamp, texts
from noether.state import ModelView, TrainState


@factory
def text_samples(
    *,
    dataset: str,
    prompts: Sequence[str],
    generate: Callable[[Any, str, int], str],
    max_new_tokens: int = 64,
    seed: int = 0,
    weights: str = "live",
) -> Callback:
    """Write `text_samples_E{e}_U{u}_S{s}.json`: prompts, and what the model writes after them.

    `generate(model, prompt, max_new_tokens)` returns a text, in evaluation mode, without
    gradients. Each prompt begins with random numbers of `seed`; those of training are untouched.
    The texts are made in a pass over `dataset`, of which one batch is loaded and not looked at.
    `weights` as for `offline_loss`.

    Raises ValueError without prompts, for max_new_tokens below 1 or a negative seed.

    >>> text_samples(dataset="val", prompts=["Once"], generate=lambda model, p, n: p * n).name
    'text_samples'
    """
    begun = texts("text_samples: prompts", prompts)
    if not begun or max_new_tokens < 1 or seed < 0:
        raise ValueError(
            f"text_samples: {len(begun)} prompts, max_new_tokens {max_new_tokens}, seed {seed}; "
            "expected 1, 1 and 0 at least"
        )
    name = f"{prefix(weights)}text_samples"

    def written(model: ModelView, batch: Any) -> dict[str, list[str]]:
        return {"texts": [_text(prompt, model) for prompt in begun]}

    def _text(prompt: str, model: ModelView) -> str:
        _seed(seed)
        text = generate(model, prompt, max_new_tokens)
        if not isinstance(text, str):
            raise TypeError(f"text_samples: generate gave {text!r}; expected a text")
        return text

    def write(state: TrainState) -> Write | None:
        if not state.results:
            return None
        pairs = zip(begun, state.results["texts"], strict=True)
        table = [{"prompt": prompt, "text": text} for prompt, text in pairs]
        return Write(f"{{name}}_{stamp(state)}.json", table)

    return Callback(
        name,
        on_schedule=write,
        data=DataPass(dataset, written, _first, weights=weights, limit=1),
        reads=(),
        writes=(),
        on_error="warn",
    )


def _first(one: Any, other: Any) -> Any:
    """Of what several ranks gave, which is the same, one."""
    return one


def _seed(seed: int) -> None:
    """Seed every generator; a data pass puts them all back."""
    random.seed(seed)
    torch.manual_seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)
