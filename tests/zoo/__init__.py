"""Small models whose scaling symmetries were worked out by hand, for every test that needs some.

    for entry in ZOO.values():
        model, call = entry.make()
        model(*call.args, **call.kwargs)

In the notes "degree" is how often a factor on a tensor (or on several) comes out of a function: linear maps and ReLU
pass it on, a bias must have it, a norm's output has degree 0 whatever goes in, and what goes into a function without
degree (tanh, softmax, sigmoid, the loss) must have degree 0.
"""

import zoo.convolutional
import zoo.interfaces
import zoo.plain
import zoo.recurrent
import zoo.transformers  # noqa: F401
from zoo.entry import ZOO, Call, Entry, loss_of, with_tiny_eps

__all__ = ["ZOO", "Call", "Entry", "loss_of", "with_tiny_eps"]
