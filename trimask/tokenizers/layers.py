"""Layers of the autoencoders: convolutions that follow their input's type, norm, residual block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-5


class Conv1d(nn.Conv1d):
    """A convolution whose fp32 weights are cast to the type of its input (fp32 or bf16)."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return self._conv_forward(input, self.weight.to(input.dtype), bias)


class Conv2d(nn.Conv2d):
    """A convolution whose fp32 weights are cast to the type of its input (fp32 or bf16).

    It pads by repeating the border, so that an empty area has the same codes wherever it lies: padding
    with zeros marks every border, and a model would have to learn the marks.
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int, stride: int = 1, padding: int = 0):
        super().__init__(fan_in, fan_out, kernel, stride, padding, padding_mode="replicate" if padding else "zeros")

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return self._conv_forward(input, self.weight.to(input.dtype), bias)


class ChannelNorm(nn.Module):
    """RMSNorm over the channels of each position (Zhang and Sennrich 2019), input (B, D, ...).

    It looks at one position alone, so a code depends on its surroundings, never on statistics of the
    whole picture or clip.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x_BD: Tensor) -> Tensor:
        scale = torch.rsqrt(x_BD.float().square().mean(1, keepdim=True) + NORM_EPSILON)
        gain_D = self.gain.view(-1, *[1] * (x_BD.ndim - 2))
        return x_BD * scale.to(x_BD.dtype) * gain_D.to(x_BD.dtype)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))), in one or two dimensions; the identity when new."""

    def __init__(self, conv: type[Conv1d] | type[Conv2d], channels: int, kernel: int = 3):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.inner = conv(channels, channels, kernel, padding=kernel // 2)
        self.outer = conv(channels, channels, kernel, padding=kernel // 2)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x_BD: Tensor) -> Tensor:
        return x_BD + self.outer(F.silu(self.inner(F.silu(self.norm(x_BD)))))


def blocks(conv: type[Conv1d] | type[Conv2d], channels: int, count: int, kernel: int = 3) -> nn.Sequential:
    """`count` residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(conv, channels, kernel) for _ in range(count)))
