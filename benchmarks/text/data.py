"""Text that every Python carries, as characters: three parts of the language reference in ``pydoc_data``.

Paragraphs that come again, however indented, are dropped, so that no part repeats another; other versions of Python
have a slightly other text, and the digest says which one it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: The shares of the three parts, in the order of the text.
TRAIN, VALIDATION = 0.8, 0.1


@dataclass(frozen=True, repr=False)
class Text:
    """Characters by number, in three parts that follow one another.

    Attributes:
        train: int64 ``[N]``.
        validation: int64 ``[N]``, what settings are chosen on.
        test: int64 ``[N]``, what is reported.
        characters: How many different ones there are.
        digest: SHA-256 of the whole text as UTF-8.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    characters: int
    digest: str


def load_text(limit: int | None = None) -> Text:
    """The text of this Python.

    Args:
        limit: How many characters of it to take; None: all of them.
    """
    from pydoc_data.topics import topics

    paragraphs: dict[str, str] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            paragraphs.setdefault(" ".join(paragraph.split()), paragraph)
    text = "\n\n".join(paragraphs.values())[:limit]
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    numbers = torch.tensor([alphabet[character] for character in text])
    ends = [int(TRAIN * len(text)), int((TRAIN + VALIDATION) * len(text))]
    train, validation, test = torch.tensor_split(numbers, ends)
    return Text(train, validation, test, len(alphabet), hashlib.sha256(text.encode()).hexdigest())


def batches(part: Tensor, *, size: int, length: int, steps: int, seed: int) -> Tensor:
    """Windows of ``length + 1`` characters at random places, int64 ``[steps, size, length + 1]``."""
    starts = np.random.default_rng(seed).integers(len(part) - length, size=(steps, size, 1))
    return part[torch.from_numpy(starts + np.arange(length + 1))]


def windows(part: Tensor, length: int) -> Tensor:
    """All whole windows side by side, each with the character after it, int64 ``[windows, length + 1]``."""
    return part.unfold(0, length + 1, length)
