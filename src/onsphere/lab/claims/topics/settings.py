"""What the studies of several topics share: data sets, the engine, the published networks."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]

#: Fixed, so that no timing decides about bits.
ENGINE: Fields = {"mode": "vmap", "chunk": 30, "compiled": "no"}

#: Fashion-MNIST averaged to 7x7, which a narrow perceptron fits slowly; and to 14x14.
FASHION_7: Fields = {"data": "fashion-mnist", "pool": 4, "label_noise": 0.0}
FASHION_14: Fields = {"data": "fashion-mnist", "pool": 2, "label_noise": 0.0}

DIGITS, FASHION, CIFAR_10, CIFAR_100 = "digits", "Fashion-MNIST", "CIFAR-10", "CIFAR-100"

#: All of CIFAR as the published runs take it.
CIFAR: Fields = {"data": "cifar10", "train": None, "label_noise": 0.0, "batch_size": 128}
CONVNET: Fields = CIFAR | {"model": "convnet", "width": 32}
RESNET: Fields = CIFAR | {"model": "resnet18", "width": 32}
PAPER: Fields = {"preset": "paper"}
EPOCH = 391  # steps of 128 of 50,000 images
