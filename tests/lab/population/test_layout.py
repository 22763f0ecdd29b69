"""Channels-last order is never used where torch's kernels write past their buffers."""

import os
import subprocess
import sys

import torch
from torch import nn

from onsphere.lab.models import build
from onsphere.lab.population.layout import safe_in_channels_last, suits_channels_last

# In a process of its own: what a wrong write breaks is found when memory is given back. ONEDNN_MAX_CPU_ISA makes a CPU
# with AVX-512 take the kernels of one without. Blocks between the tensors show what is written behind those.
TRAIN = """
import sys, torch
from onsphere.lab.data import from_arrays
from onsphere.lab.population import Copy, Engine, Plan, Problem
torch.set_num_threads(1)
x = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
data = from_arrays(x, [0, 1] * 16, x, [0, 1] * 16)
kept = []
for name, geometry in zip(sys.argv[1::2], sys.argv[2::2]):
    print(name, geometry, flush=True)
    for width in range(1, 13):
        options = {"widths": (width,)} if "mlp" in name else {"width": width}
        this = Problem(data, name, options, geometry=geometry, steps=3, batch_size=16)
        trained = tuple(n for n, p in this.build(0).named_parameters() if p.requires_grad)
        this = Problem(data, name, options, trained=trained, geometry=geometry, steps=3, batch_size=16)
        engine = Engine(this, (Copy(0, 1e-3),), Plan("loop", 1, traced=False, channels_last=True))
        state = engine.initial_state()
        for step in range(3):
            state = engine.advance(state, step + 1, torch.empty((1, 1, engine.columns)))
            kept += [torch.full((17 + i,), 3.0) for i in range(20)]
        assert all(bool((k == 3).all()) for k in kept), (name, width)
print("intact")
"""


def test_no_width_of_a_named_model_damages_memory_in_float32():
    """One process for all; what it said last names the model that did."""
    models = {"resnet18": "sphere", "wrn28": "space"}
    models |= {"mlp": "sphere", "convnet": "sphere", "plain-mlp": "space", "vgg16": "space"}  # no strided 1x1 today
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAIN, *(word for pair in models.items() for word in pair)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    said = [" ".join(pair) for pair in models.items()]
    assert (done.returncode, done.stdout.splitlines()) == (0, [*said, "intact"]), done.stderr[-2000:]


def test_which_networks_are_safe():
    for name, width, safe in (("resnet18", 7, False), ("resnet18", 8, True), ("wrn28", 4, False), ("wrn28", 8, True)):
        assert suits_channels_last(build(name, input_shape=(3, 8, 8), classes=2, width=width)) == safe
    assert suits_channels_last(build("convnet", input_shape=(3, 8, 8), classes=2, width=1))  # no 1x1 convolution

    def stem(convolution):
        return nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), convolution)

    assert safe_in_channels_last(stem(nn.Conv2d(16, 32, 1, stride=2)))
    assert safe_in_channels_last(stem(nn.Conv2d(4, 32, 1)))
    assert not safe_in_channels_last(stem(nn.Conv2d(4, 32, 1, stride=(1, 2))))
    assert not safe_in_channels_last(stem(nn.ConvTranspose2d(16, 4, 1, stride=2)))
    own = stem(nn.Identity())
    own.kernel = nn.Parameter(torch.zeros(8, 4, 1, 1))  # of a functional call, whose stride nobody knows
    assert not safe_in_channels_last(own)
