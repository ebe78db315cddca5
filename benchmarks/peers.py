"""The other libraries: which are here, and where the same training with each is written."""

import importlib
from functools import cache
from types import ModuleType

MODULES = {
    "Ignite": "by_ignite",
    "Lightning": "by_lightning",
    "Hugging Face Trainer": "by_transformers",
}
"""Each has `off`, `monitored` and `dormant`, which train and give a reading."""
IMPORTS = {
    "Ignite": "from ignite.engine import Engine, Events",
    "Lightning": "from lightning import LightningModule, Trainer",
    "Hugging Face Trainer": "from transformers import Trainer, TrainingArguments",
}
"""What a user writes to begin with each."""
PACKAGES = ("torch", "pytorch-ignite", "lightning", "transformers", "accelerate")


@cache
def here() -> dict[str, ModuleType]:
    """The peers that can be imported; of each other one a line says why not."""
    found = {}
    for name, module in MODULES.items():
        try:
            found[name] = importlib.import_module(module)
        except ImportError as error:
            skipped(name, str(error))
    return found


def skipped(name: str, why: str) -> None:
    print(f"{name} is left out, as it does not import: {why}", flush=True)
