"""Bands of spatial frequency against waves of known frequency, and what Fourier analysis says of them."""

import math

import pytest
import torch

from onsphere.landscape import fourier_bands


def images(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def wave(height, width, down, right):
    """A cosine with so many whole periods down and to the right."""
    y, x = torch.arange(height).double(), torch.arange(width).double()
    phase = down * y[:, None] / height + right * x / width
    return torch.cos(2 * math.pi * phase + 0.3)


@pytest.mark.parametrize("sides", [(8, 8), (7, 7), (6, 9), (5, 1)])
def test_bands_add_up_to_the_image_and_their_squares_to_its_square(sides):
    x = images(3, 2, *sides)
    most = sides[0] // 2 + sides[1] // 2
    bands = fourier_bands(x, range(most + 2))
    assert bands.shape == (most + 1, *x.shape)
    torch.testing.assert_close(bands.sum(0), x, rtol=0, atol=1e-13)
    torch.testing.assert_close(bands.square().sum((0, -1, -2)), x.square().sum((-1, -2)), rtol=1e-13, atol=0)
    products = torch.einsum("a...hw,b...hw->ab...", bands, bands)
    assert (
        float((products - torch.diag_embed(products.diagonal(dim1=0, dim2=1)).movedim((-2, -1), (0, 1))).abs().max())
        < 1e-13
    )


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (0, 2), (2, 3), (-2, 3), (4, 0), (4, 5), (-1, 1)])
def test_a_wave_is_in_the_band_of_its_periods_alone(down, right):
    x = wave(8, 10, down, right)
    frequency = abs(down) + abs(right)
    bands = fourier_bands(x, range(11))
    torch.testing.assert_close(bands[frequency], x, rtol=0, atol=1e-14)
    assert all(float(band.abs().max()) < 1e-14 for k, band in enumerate(bands) if k != frequency)


def test_the_first_band_is_the_mean_and_what_is_left_without_a_band_is_the_rest():
    x = images(2, 3, 6, 6)
    means = x.mean((-1, -2), keepdim=True).expand_as(x)
    torch.testing.assert_close(fourier_bands(x, (0, 1))[0], means, rtol=0, atol=1e-14)
    torch.testing.assert_close(fourier_bands(x, (0, 1), keep=False)[0], x - means, rtol=0, atol=1e-14)
    edges = (0, 1.5, 4, 7)
    both = fourier_bands(x, edges) + fourier_bands(x, edges, keep=False)
    torch.testing.assert_close(both, x.expand_as(both), rtol=0, atol=1e-14)


def test_it_agrees_with_the_sum_over_the_whole_complex_spectrum():
    x = images(7, 6, seed=1)
    expected = torch.zeros_like(x)
    spectrum = torch.fft.fft2(x)
    for u in range(7):
        for v in range(6):
            if 2 <= min(u, 7 - u) + min(v, 6 - v) < 4:
                turns = u * torch.arange(7).double()[:, None] / 7 + v * torch.arange(6).double() / 6
                expected += (spectrum[u, v] * torch.exp(2j * math.pi * turns)).real / 42
    torch.testing.assert_close(fourier_bands(x, (2, 4))[0], expected, rtol=0, atol=1e-14)


def test_single_precision_stays_single():
    x = images(2, 1, 8, 8).float()
    bands = fourier_bands(x, range(10))
    assert bands.dtype == torch.float32
    torch.testing.assert_close(bands.sum(0), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "edges", "error", "message"),
    [
        (torch.zeros(8, 8, dtype=torch.uint8), (0, 1), TypeError, "images is a tensor of torch.uint8"),
        ([[0.0]], (0, 1), TypeError, "images is a list"),
        (torch.zeros(8), (0, 1), ValueError, "shape \\(8,\\)"),
        (torch.zeros(0, 8), (0, 1), ValueError, "shape \\(0, 8\\)"),
        (torch.zeros(8, 8), (0,), ValueError, "at least two"),
        (torch.zeros(8, 8), (0, math.inf), ValueError, "finite"),
        (torch.zeros(8, 8), (2, 2), ValueError, "larger than the one before"),
        (torch.zeros(8, 8), (-1, 2), ValueError, "at least 0"),
    ],
)
def test_what_is_no_image_or_no_band_is_refused(given, edges, error, message):
    with pytest.raises(error, match=message):
        fourier_bands(given, edges)
