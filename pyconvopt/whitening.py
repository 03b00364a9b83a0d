"""Filters for a first layer that follow from the images: patches come out uncorrelated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyconvopt import registry
from pyconvopt.data import checks


def patch_whitening_(
    weight: Tensor, images: Any, eps: float = 5e-4, data_format: str = "channels_last"
) -> Tensor:
    """Fill the kernel of a first convolution with filters that whiten patches of the images.

    With Σ = V·diag(λ)·Vᵀ the covariance of all patches of the kernel's size, largest λ first,

        filter i = v_i / √(λ_i + eps),      filter (d + i) = -filter i,

    d = C·kh·kw values a patch, so the filters' outputs on these images are uncorrelated and, where
    eps is small beside λ, of variance 1. The second half lets a ReLU keep both signs. A new seed
    changes nothing: the filters follow from the images.

    Args:
        weight: (filters, C, kh, kw), of a built layer or a torch module; filters up to 2·d.
        images: some thousand training images as the model will see them, (N, H, W, C) or
            (N, H, W), or (N, C, H, W) with data_format='channels_first'.
        eps: added to each λ, in the square of the images' unit: what lies below is noise.

    Such a layer is mostly kept as it is: `layer.trainable = False`.

    Errors: ValueError for more than 2·d filters, other channels, images smaller than a patch, NaN
    or infinity in them, or patches that leave a λ of 0 to be divided by.

    >>> weight = torch.empty(8, 1, 2, 2)
    >>> patch_whitening_(weight, torch.rand(100, 8, 8)).shape
    torch.Size([8, 1, 2, 2])

    Source: Page 2019, "How to Train Your ResNet" (myrtle.ai); Jordan 2024, arXiv:2404.00498.
    """
    layouts = {"channels_last": (0, 3, 1, 2), "channels_first": (0, 1, 2, 3)}
    layout = registry.find("data_format", layouts, str(data_format))
    pictures = checks.as_tensor(images, "images")
    checks.require_samples(pictures, "images")
    checks.require_finite(pictures, "images")
    if weight.dim() != 4 or pictures.dim() not in (3, 4):
        raise ValueError(
            "patch whitening takes a kernel of four axes and images of four, or three without "
            f"channels; got shapes {tuple(weight.shape)} and {tuple(pictures.shape)}"
        )
    if not eps >= 0:
        raise ValueError(f"eps must be 0 or more, got {eps}")
    filters, channels, height, width = weight.shape
    pictures = pictures[:, None] if pictures.dim() == 3 else pictures.permute(layout)
    size = channels * height * width
    if pictures.shape[1] != channels or min(
        pictures.shape[2] - height, pictures.shape[3] - width
    ) < 0:  # fmt: skip
        raise ValueError(
            f"a kernel of shape {tuple(weight.shape)} needs images of {channels} channels and at "
            f"least {height}×{width} pixels, got {tuple(pictures.shape)} as (N, C, H, W)"
        )
    if filters > 2 * size:
        raise ValueError(
            f"patches of {channels}×{height}×{width} give {2 * size} whitening filters, got a "
            f"kernel of {filters}"
        )
    covariance = patch_covariance(pictures, (height, width))
    sizes, vectors = torch.linalg.eigh(covariance)
    # eigh gives the smallest first; rounding may leave one a little below 0.
    sizes = sizes.clamp(min=0) + eps
    if not bool((sizes[-filters:] > 0).all()):
        raise ValueError(
            "these patches vary in fewer directions than there are filters: give an eps above 0, or "
            "more images"
        )
    rows = (vectors / sizes.sqrt()).t().flip(0)
    both = torch.cat([rows, -rows])[:filters]
    with torch.no_grad():
        return weight.copy_(both.reshape(filters, channels, height, width))


def patch_covariance(images: Tensor, window: tuple[int, int]) -> Tensor:
    """The covariance of all windows of images (N, C, H, W), in double: (C·kh·kw, C·kh·kw)."""
    size = images.shape[1] * window[0] * window[1]
    total, squares, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
    for part in images.split(256):
        patches = nn.functional.unfold(part.double(), window).movedim(1, 2).reshape(-1, size)
        total += patches.sum(0)
        squares += patches.t() @ patches
        count += len(patches)
    mean = total / count
    return squares / count - torch.outer(mean, mean)
