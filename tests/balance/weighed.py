"""The stand-in detector with a recipe's `balance`: two branches on one output, one of them without a pair to weigh."""

from __future__ import annotations

from bifocals.balance import Balance, Fixed
from bifocals.data import Data, Input
from bifocals.losses import IoULoss
from bifocals.objective import DenseBranch, Objective
from bifocals.predict import Postprocess
from bifocals.recipes.balanced import balanced
from bifocals.train import Experiment, Optim
from tests.train.stand_in import ONE_LEVEL, Entropy, TinyDetector

TINY_OPTIM = Optim(lr=2e-3, batch_size=4, warmup_steps=3, ema=0.9)


def weighed(
    balance: Balance = Balance(),
    data: Data = Data(),
    input: Input = Input(64, 64),
    optim: Optim = TINY_OPTIM,
    epochs: float = 2,
) -> Experiment:
    """The recipe of the stand-in under a balancer, with a weight of 2 for its boxes."""

    def objective() -> Objective:
        return Objective({
            "one2many": DenseBranch(ONE_LEVEL, {"cls": Entropy(), "giou": IoULoss()}, Fixed({"giou": 2.0})),
            "aux": DenseBranch(ONE_LEVEL, {"cls": Entropy()}, source="one2many"),
        })

    return balanced(
        Experiment(
            network=lambda num_classes: TinyDetector(num_classes, 0.0, norm=False),
            objective=objective,
            postprocess={"one2many": Postprocess(0.01, nms=None)},
            output="one2many",
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )
