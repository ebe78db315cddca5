import torch

from noether import every, hooks
from tests.hooks.cases.case import Case
from tests.sample_project import drawn_outputs, thrown_dice

PROJECT = "tests.sample_project"
SET = {"dataset": "val"}
EACH = {"every_n_epochs": 1}
PLOT = {"plot": {"kind": f"{PROJECT}.picture"}}
PROMPTS = {"prompts": ["Once", "upon"], "generate": {"kind": f"{PROJECT}.dice"}}

CASES = {
    "images": Case(
        every(epochs=1)(hooks.images(dataset="val", plot=drawn_outputs)),
        {**SET, **PLOT, **EACH},
        {"name": "pictures", **SET, "source": "x", **PLOT, "count": 3, "weights": "ema", **EACH},
        {"image": [torch.ones(1, 2, 3)]},
    ),
    "predictions": Case(
        every(epochs=1)(hooks.predictions(dataset="val", format="csv")),
        {**SET, **EACH},
        {
            **{"name": "answers", **SET, "keys": ["mean"], "format": "json", "targets": True},
            **{"plot": True, "batch_size": 8, "weights": "ema", "limit": 3, **EACH},
        },
        {"prediction": torch.ones(3, 2), "target": torch.ones(3)},
    ),
    "text_samples": Case(
        every(epochs=1)(
            hooks.text_samples(dataset="val", prompts=["Once"], generate=thrown_dice, seed=3)
        ),
        {**SET, **PROMPTS, **EACH},
        {
            "name": "texts",
            **SET,
            **PROMPTS,
            "max_new_tokens": 5,
            "seed": 1,
            "weights": "ema",
            **EACH,
        },
        {"texts": ["Once [1, 6]"]},
    ),
    "track_outputs": Case(
        every(updates=2)(hooks.track_outputs(keys=["outputs"], verbose=True, save_output=True)),
        {"keys": ["a"], "every_n_updates": 1},
        {
            "name": "tracked",
            "keys": ["a"],
            "patterns": ["b"],
            "reduce": "last",
            "verbose": True,
            "log_output": False,
            "save_output": True,
            "every_n_updates": 5,
        },
    ),
}
