"""Which order images and convolution weights take in memory: channels last is faster on a CPU, where it is safe.

It is exact only with our batch statistics (:class:`onsphere.normalisation.BatchStatistics`). And it is never chosen
for a network with a strided 1x1 convolution of few channels: on CPUs with AVX2 and without AVX-512, torch 2.13 computes
the weight gradient of such a convolution in float32 by a kernel that writes up to some kilobytes past its buffer. Seen
with guarded buffers for one group, 2 to 7 input channels, and strides 2 and 4 in one direction or both; never with 1 or
with 8 to 33 channels, 2 or 4 groups, larger kernels, in contiguous order, float64 or bfloat16, nor with AVX-512.
"""

from __future__ import annotations

from torch import nn

from onsphere.normalisation import norm_layers

_FEW = 8  # input channels, of one vector register of the kernel


def suits_channels_last(network: nn.Module) -> bool:
    """Whether a network gains from channels-last order on a CPU, exactly and safely."""
    only_batch_norm = all(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in norm_layers(network).values())
    convolutional = any(isinstance(m, nn.Conv2d) for m in network.modules())
    return only_batch_norm and convolutional and safe_in_channels_last(network)


def safe_in_channels_last(network: nn.Module) -> bool:
    """Whether no weight of a network can be that of a strided 1x1 convolution of fewer than 8 channels.

    Layers with stride 1 are safe. A four-dimensional parameter of such a shape that is not the weight of a layer known
    to have stride 1 counts as unsafe, whatever is done with it: what a forward pass calls cannot be seen from outside.
    """
    unit_stride = {
        id(layer.weight)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and set(layer.stride) == {1}
    }
    return not any(
        p.dim() == 4 and tuple(p.shape[2:]) == (1, 1) and min(p.shape[:2]) < _FEW and id(p) not in unit_stride
        for p in network.parameters()
    )
