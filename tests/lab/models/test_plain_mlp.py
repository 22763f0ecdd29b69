"""The perceptron without norms: its size, and that all of it is trained."""

import pytest
import torch

from onsphere.lab.models import MODELS, ModelError, build, plain_mlp


def test_size_and_output():
    model = build("plain-mlp", input_shape=(1, 7, 7), classes=10, widths=(24, 24))
    count = 49 * 24 + 24 + 24 * 24 + 24 + 24 * 10 + 10
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    assert model(torch.zeros(3, 1, 7, 7)).shape == (3, 10)
    assert MODELS["plain-mlp"] is plain_mlp
    assert not list(model.buffers())


def test_wrong_widths_are_refused():
    for widths in ((), (0,), (2.5,)):
        with pytest.raises(ModelError, match="widths"):
            plain_mlp((4,), 2, widths=widths)
