"""The hyper-parameters that an optimizer has at the moment."""

from noether.callback import Callback, factory
from noether.effects import Log
from noether.state import TrainState


@factory
def learning_rate(*, weight_decay: bool = True, momentum: bool = False) -> Callback:
    """Log `optim/lr/model`, `optim/wd/model`, `optim/momentum/model`, by group where named.

    >>> learning_rate(momentum=True).name
    'learning_rate'
    """
    wanted = {"lr": "lr"}
    if weight_decay:
        wanted["weight_decay"] = "wd"
    if momentum:
        wanted["momentum"] = "momentum"

    def log_rates(state: TrainState) -> Log:
        return Log(
            {
                f"optim/{short}/model{'' if group == 'default' else f'/{group}'}": values[key]
                for group, values in state.hyper.items()
                for key, short in wanted.items()
                if key in values
            }
        )

    return Callback(
        "learning_rate",
        on_schedule=log_rates,
        reads=(),
        writes=tuple(f"optim/{short}/*" for short in wanted.values()),
        on_error="warn",
    )
