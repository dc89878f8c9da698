"""How alike two pictures are: PSNR and SSIM, as pure functions that can be differentiated."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 7
"""Side of SSIM's square window in pixels."""


def psnr(one_BCYX: Tensor, other_BCYX: Tensor, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, shape (B,); infinite for equal pictures."""
    error_B = (one_BCYX - other_BCYX).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error_B)


def ssim(one_BCYX: Tensor, other_BCYX: Tensor, peak: float = 1.0, stride: int = 1) -> Tensor:
    """Structural similarity of each picture, shape (B,), 1 for equal pictures.

    Wang et al. 2004, equation 13, with K1 = 0.01, K2 = 0.03, a uniform window of `WINDOW` pixels and
    population variances, averaged over channels and the windows inside the picture, `stride` apart.
    """
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    stacked = torch.cat((one_BCYX, other_BCYX, one_BCYX.square(), other_BCYX.square(), one_BCYX * other_BCYX))
    mean_a, mean_b, square_a, square_b, product = F.avg_pool2d(stacked, WINDOW, stride=stride).chunk(5)
    variances = square_a - mean_a.square() + square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    structure = (2 * covariance + c2) / (variances + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return (luminance * structure).flatten(1).mean(1)
