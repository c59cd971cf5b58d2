"""Patches: the coefficients of forms that see only a window of an image.

The form of one neuron of a convolution has nonzero coefficients only in a small window of each image on its way back to
the input (Xu et al. 2020, arXiv 2002.12920, store them this way too). All rows have windows of the same size at their
own positions. Coefficients are stored channels last, so that a convolution is one matrix product, and a plane's values
in a window are a gather of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from ibpc.ops.rules import Kernel

# Windows cost about this many times as much per pixel as whole images.
_MOST_SEEN: Final = 4


@dataclass(frozen=True)
class Span:
    """What forms see along one axis: a form that began at element p sees `size` elements from p·scale − shift on."""

    size: int = 1
    scale: int = 1
    shift: int = 0

    def through(self, kernel: int, stride: int, pad: int, dilation: int) -> Span:
        """Return the span of a convolution's operand, given this one of its result."""
        size = (self.size - 1) * stride + (kernel - 1) * dilation + 1
        return Span(size, self.scale * stride, self.shift * stride + pad)

    def joined(self, other: Span) -> Span | None:
        """Return the least span that contains both, None if their scales differ."""
        if self.scale != other.scale:
            return None
        shift = max(self.shift, other.shift)
        return Span(max(self.size - self.shift, other.size - other.shift) + shift, self.scale, shift)

    def indices(self, positions: Tensor) -> Tensor:
        """Return the elements (R, size) seen by forms that began at `positions` (R,); some may not exist."""
        return positions[:, None] * self.scale - self.shift + torch.arange(self.size, device=positions.device)


@dataclass(frozen=True)
class Window:
    """The window that forms see of an image."""

    rows: Span = Span()
    columns: Span = Span()

    @property
    def area(self) -> int:
        """The number of pixels."""
        return self.rows.size * self.columns.size

    def through(self, kernel: Kernel) -> Window:
        """Return the window of a convolution's operand, given this one of its result."""
        spans = (
            span.through(kernel.weight.shape[2 + axis], kernel.strides[axis], kernel.pads[axis], kernel.dilations[axis])
            for axis, span in enumerate((self.rows, self.columns))
        )
        return Window(*spans)

    def joined(self, other: Window) -> Window | None:
        """Return the least window that contains both, None if their scales differ."""
        rows, columns = self.rows.joined(other.rows), self.columns.joined(other.columns)
        return None if rows is None or columns is None else Window(rows, columns)

    def is_small(self, image: tuple[int, ...]) -> bool:
        """Return whether the window is small enough to be cheaper than the whole image C×H×W."""
        return _MOST_SEEN * self.area < image[1] * image[2]


@dataclass(frozen=True, eq=False)
class Begins:
    """The pixels where forms began: the distinct ones (U, 2), and the index into them for each form (R,)."""

    distinct: Tensor
    which: Tensor

    @classmethod
    def of(cls, pixels: Tensor, width: int) -> Begins:
        """Return the begins at flat pixels (R,), numbered row by row, of images of this width."""
        distinct, which = torch.unique(pixels, return_inverse=True)
        return cls(torch.stack((distinct // width, distinct % width), 1), which)


@dataclass(frozen=True)
class Places:
    """The windows of forms that began at given pixels, in images of shape C×H×W."""

    begins: Begins
    window: Window
    shape: tuple[int, int, int]

    @cached_property
    def pixels(self) -> Tensor:
        """The pixels (R·h·w) of the windows; one outside the image is replaced by the nearest inside."""
        return self._distinct_pixels.index_select(0, self.begins.which).flatten()

    @cached_property
    def inside(self) -> Tensor:
        """Whether the pixels (R, h, w) exist."""
        _, height, width = self.shape
        y, x = self._indices
        exists = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
        return exists.index_select(0, self.begins.which)

    def of(self, images: Tensor, *sizes: int) -> list[Tensor]:
        """Return the windows (R, h, w, B, …) of images (B, C, H, W), split into parts of `sizes` channels."""
        table = images.permute(2, 3, 0, 1).flatten(0, 1)
        shape = (len(self.begins.distinct), self.window.rows.size, self.window.columns.size)
        shown = table.index_select(0, self._distinct_pixels.flatten()).reshape(*shape, *table.shape[1:])
        return [part.contiguous().index_select(0, self.begins.which) for part in torch.split(shown, list(sizes), -1)]

    @cached_property
    def _distinct_pixels(self) -> Tensor:
        _, height, width = self.shape
        y, x = self._indices
        return (y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]).flatten(1)

    @cached_property
    def _indices(self) -> tuple[Tensor, Tensor]:
        rows, columns = self.begins.distinct.unbind(1)
        return self.window.rows.indices(rows), self.window.columns.indices(columns)


@dataclass(frozen=True)
class Patches:
    """Coefficients (R, h, w, B, C) in windows of images, 0 where a window reaches beyond its image."""

    coefficients: Tensor
    places: Places

    @classmethod
    def units(cls, elements: Tensor, signs: Tensor, batch: int, shape: tuple[int, int, int]) -> Patches:
        """Return the forms that pick one element each (flat, in C×H×W order) of an image, times a sign."""
        channels, height, width = shape
        begins = Begins.of(elements % (height * width), width)
        coefficients = signs.new_zeros(len(elements), 1, 1, 1, channels)
        coefficients[torch.arange(len(elements), device=signs.device), 0, 0, 0, elements // (height * width)] = signs
        return cls(coefficients.expand(-1, -1, -1, batch, -1), Places(begins, Window(), shape))

    @property
    def window(self) -> Window:
        """What each form sees."""
        return self.places.window

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape C×H×W of an image."""
        return self.places.shape

    @property
    def rows(self) -> int:
        """The number of forms."""
        return self.coefficients.shape[0]

    @property
    def batch(self) -> int:
        """The number of images."""
        return self.coefficients.shape[3]

    @cached_property
    def _moduli(self) -> Tensor:
        return self.coefficients.abs()

    def scaled(self, factor: float) -> Patches:
        """Return the forms times a number."""
        return self if factor == 1.0 else replace(self, coefficients=self.coefficients * factor)

    def seen(self, values: Tensor) -> Tensor:
        """Return the windows of a tensor that broadcasts to (B, C, H, W); the result broadcasts to `coefficients`."""
        channels, height, width = self.shape
        if values.dim() >= 2 and values.shape[-2:] == (1, 1):
            return values[..., 0, 0]
        return self.places.of(values.expand(self.batch, channels, height, width), channels)[0]

    def windows_of(self, *values: Tensor) -> list[Tensor]:
        """Return `seen` of each of several tensors, gathered at once."""
        wide = (self.batch, *self.shape)
        table = torch.cat([value.expand(wide) for value in values], 1)
        return self.places.of(table, *len(values) * [self.shape[0]])

    def dotted(self, values: Tensor) -> Tensor:
        """Return Σ coefficient · value, (R, B), for finite values that broadcast to (B, C, H, W)."""
        return _summed(self.coefficients * self.seen(values))

    def dotted_moduli(self, values: Tensor) -> Tensor:
        """Return Σ |coefficient| · value, (R, B)."""
        return _summed(self._moduli * self.seen(values))

    def total(self, mean: Tensor, half: Tensor) -> Tensor:
        """Return Σ coefficient · mean + |coefficient| · half, (R, B), for `mean` and `half` in windows."""
        return _summed(torch.addcmul(self.coefficients * mean, self._moduli, half))

    def bent(self, mean: Tensor, half: Tensor) -> Patches:
        """Return coefficient · mean + |coefficient| · half, for `mean` and `half` in windows."""
        return replace(self, coefficients=torch.addcmul(self.coefficients * mean, self._moduli, half))

    def plus(self, other: Patches) -> Patches | None:
        """Return the sum of forms at the same node, None if their windows begin or scale differently."""
        window = self.window.joined(other.window)
        if window is None or self.places.begins is not other.places.begins:
            return None
        total = self._spread(window)
        total += other._spread(window)
        return Patches(total, replace(self.places, window=window))

    def through(self, kernel: Kernel, shape: tuple[int, int, int]) -> Patches:
        """Return the forms of the convolution's operand, of the given shape, without the bias."""
        window = self.window.through(kernel)
        height, width = self.coefficients.shape[1:3]
        weight = kernel.weight.to(self.coefficients)
        total = self.coefficients.new_zeros(self.rows, window.rows.size, window.columns.size, self.batch, shape[0])
        for i in range(kernel.weight.shape[2]):
            for j in range(kernel.weight.shape[3]):
                rows = _strided(i * kernel.dilations[0], kernel.strides[0], height)
                columns = _strided(j * kernel.dilations[1], kernel.strides[1], width)
                total[:, rows, columns] += _mixed(self.coefficients, weight[:, :, i, j], kernel.group)
        places = Places(self.places.begins, window, shape)
        if not bool(places.inside.all()):
            total *= places.inside[..., None, None]
        return Patches(total, places)

    def dense(self) -> Tensor:
        """Return all coefficients, (R, B, *shape)."""
        channels, height, width = self.shape
        inside = self.places.inside.flatten()
        first = torch.arange(self.rows, device=inside.device).repeat_interleave(self.window.area) * height * width
        total = self.coefficients.new_zeros(self.rows * height * width, self.batch, channels)
        flat = self.coefficients.reshape(len(inside), self.batch, channels)
        total.index_copy_(0, (first + self.places.pixels)[inside], flat[inside])
        image = total.reshape(self.rows, height, width, self.batch, channels)
        return image.permute(0, 3, 4, 1, 2).contiguous()

    def _spread(self, window: Window) -> Tensor:
        """Return the coefficients in a larger window."""
        top, left = window.rows.shift - self.window.rows.shift, window.columns.shift - self.window.columns.shift
        height, width = self.coefficients.shape[1:3]
        total = self.coefficients.new_zeros(
            self.rows, window.rows.size, window.columns.size, *self.coefficients.shape[3:]
        )
        total[:, top : top + height, left : left + width] = self.coefficients
        return total


def _strided(first: int, step: int, count: int) -> slice:
    return slice(first, first + (count - 1) * step + 1, step)


def _mixed(coefficients: Tensor, weight: Tensor, group: int) -> Tensor:
    """Return each pixel's coefficients (…, M) times a weight (M, C/group) in groups, (…, C)."""
    if group == 1:
        return coefficients @ weight
    parted = coefficients.reshape(*coefficients.shape[:-1], group, -1)
    return torch.einsum("...go,gok->...gk", parted, weight.reshape(group, -1, weight.shape[1])).flatten(-2)


def _summed(products: Tensor) -> Tensor:
    """Return the sum over windows and channels, (R, B)."""
    return products.sum((1, 2, 4))
