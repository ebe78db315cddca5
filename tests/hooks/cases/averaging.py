from noether import hooks
from tests.hooks.cases.case import Case

CASES = {
    "ema": Case(
        hooks.ema(decay=[0.9, 0.5], start=2, every=2, warmup=True),
        {"decay": 0.9},
        {
            "name": "averages",
            "decay": [0.9, 0.5],
            "start": 2,
            "every": 2,
            "warmup": True,
            "average_buffers": True,
        },
    ),
}
