"""The one table of problems that tests of correctness, gradients and the benchmarks all read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConvCase:
    """A convolution: N × C × H × W by K × C/groups × R × S."""

    name: str
    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __str__(self) -> str:
        return self.name

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                (self.height, self.width),
                self.padding,
                self.dilation,
                self.kernel,
                self.stride,
                strict=True,
            )
        )

    @property
    def macs(self) -> int:
        """Multiplications of the forward pass by the definition."""
        height, width = self.out_size
        taps = self.kernel[0] * self.kernel[1] * self.channels // self.groups
        return self.batch * height * width * self.out_channels * taps


CONV_CASES = [
    # 3×3, stride 1: Winograd. Whole tiles, border tiles, every padding, channel tails, both orders of work.
    ConvCase("article_first", 4, 1, 28, 28, 32),
    ConvCase("article_second", 4, 32, 13, 13, 64),
    ConvCase("article_third", 4, 64, 5, 5, 64),
    ConvCase("whole_tiles", 2, 32, 10, 10, 32),
    ConvCase("same_padding", 2, 32, 12, 12, 32, padding=(1, 1)),
    ConvCase("full_padding", 1, 16, 6, 7, 16, padding=(2, 2)),
    ConvCase("uneven_padding", 2, 16, 9, 6, 32, padding=(1, 0)),
    ConvCase("beyond_full_padding", 1, 16, 5, 5, 16, padding=(3, 3)),
    ConvCase("channel_tails", 2, 19, 9, 11, 37, padding=(1, 1)),
    ConvCase("more_tails", 1, 33, 7, 7, 17, padding=(1, 1)),
    ConvCase("one_tile", 1, 16, 4, 4, 16, padding=(1, 1)),
    ConvCase("smallest_map", 3, 16, 4, 4, 16),
    ConvCase("many_weights", 8, 192, 4, 4, 160, padding=(1, 1)),
    ConvCase("many_weights_tails", 3, 70, 7, 7, 150, padding=(1, 1)),
    ConvCase("many_tiles", 6, 48, 40, 40, 48, padding=(1, 1)),
    ConvCase("many_tiles_and_weights", 4, 130, 32, 32, 130, padding=(1, 1)),
    # 5×5, stride 1: Winograd with tiles of 2×2 outputs; the same variety.
    ConvCase("five", 2, 32, 9, 9, 32, kernel=(5, 5), padding=(2, 2)),
    ConvCase("five_whole_tiles", 2, 32, 10, 10, 32, kernel=(5, 5)),
    ConvCase("five_full_padding", 1, 32, 6, 7, 24, kernel=(5, 5), padding=(4, 4)),
    ConvCase("five_beyond_full_padding", 1, 24, 5, 6, 32, kernel=(5, 5), padding=(5, 3)),
    ConvCase("five_tails", 2, 19, 9, 12, 37, kernel=(5, 5), padding=(2, 1)),
    ConvCase("five_many_weights", 3, 70, 7, 7, 150, kernel=(5, 5), padding=(2, 2)),
    ConvCase("five_many_tiles", 4, 48, 24, 24, 40, kernel=(5, 5), padding=(2, 2)),
    ConvCase("five_many_tiles_and_weights", 2, 96, 30, 30, 112, kernel=(5, 5)),
    # 3×3, stride 2: Winograd where there are tiles enough, the same variety.
    ConvCase("strided_tiles", 4, 16, 31, 32, 16, stride=(2, 2), padding=(1, 1)),
    ConvCase("strided_no_padding", 6, 16, 33, 33, 24, stride=(2, 2)),
    ConvCase("strided_uneven_padding", 6, 16, 32, 31, 16, stride=(2, 2), padding=(1, 2)),
    ConvCase("strided_tails", 8, 19, 30, 33, 37, stride=(2, 2), padding=(1, 1)),
    ConvCase("strided_many_weights", 20, 70, 16, 15, 150, stride=(2, 2), padding=(1, 1)),
    ConvCase("strided_many_tiles", 6, 48, 64, 64, 48, stride=(2, 2), padding=(1, 1)),
    ConvCase("strided_many_tiles_and_weights", 5, 130, 32, 32, 130, stride=(2, 2), padding=(1, 1)),
    # Few input channels: the first layer of a network.
    ConvCase("gray_padded", 3, 1, 12, 9, 16, padding=(1, 1)),
    ConvCase("rgb", 2, 3, 16, 16, 64, padding=(1, 1)),
    ConvCase("rgb_stem", 2, 3, 30, 31, 64, kernel=(7, 7), stride=(2, 2), padding=(3, 3)),
    ConvCase("two_channels_5x5", 2, 2, 11, 14, 19, kernel=(5, 5), padding=(2, 1)),
    ConvCase("rgba_dilated", 2, 4, 15, 13, 20, dilation=(2, 3), padding=(1, 2)),
    ConvCase("gray_row_kernel", 2, 1, 5, 40, 24, kernel=(1, 9), stride=(1, 3)),
    ConvCase("tall_gray", 1, 1, 70, 6, 16),
    # No kernel of this library yet, or too few channels for one: torch's, and the reference here.
    ConvCase("pointwise", 2, 24, 7, 7, 40, kernel=(1, 1)),
    ConvCase("many_pixels_pointwise", 1, 17, 64, 65, 24, kernel=(1, 1)),
    ConvCase("many_pixels_few_outputs", 3, 40, 37, 38, 9, kernel=(1, 1)),
    # Few pixels: threads share out the channels of the weight gradient, or the weights where those are more.
    ConvCase("few_pixels_few_outputs", 2, 100, 5, 5, 8, kernel=(1, 1)),
    ConvCase("few_pixels_many_inputs", 1, 520, 7, 7, 130, kernel=(1, 1)),
    ConvCase("few_pixels", 1, 128, 8, 7, 144, padding=(1, 1)),
    ConvCase("few_pixels_pointwise", 1, 160, 4, 4, 300, kernel=(1, 1)),
    ConvCase("strided", 2, 16, 9, 9, 32, stride=(2, 2), padding=(1, 1)),
    ConvCase("strided_pointwise", 2, 16, 8, 8, 32, kernel=(1, 1), stride=(2, 2)),
    ConvCase("strided_pointwise_uneven", 2, 24, 9, 11, 40, kernel=(1, 1), stride=(2, 3)),
    ConvCase(
        "strided_pointwise_grouped",
        2,
        32,
        7,
        8,
        48,
        kernel=(1, 1),
        stride=(1, 2),
        padding=(1, 2),
        groups=2,
    ),
    ConvCase("five_few_channels", 2, 16, 9, 9, 16, kernel=(5, 5), padding=(2, 2)),
    ConvCase("seven", 2, 16, 9, 9, 16, kernel=(7, 7), padding=(3, 3)),
    ConvCase("dilated", 1, 16, 11, 11, 16, dilation=(2, 2), padding=(2, 2)),
    ConvCase("grouped", 2, 16, 8, 8, 32, padding=(1, 1), groups=4),
    ConvCase("depthwise", 2, 24, 8, 8, 24, padding=(1, 1), groups=24),
    ConvCase("depthwise_strided", 3, 37, 21, 14, 37, stride=(2, 2), padding=(1, 1), groups=37),
    ConvCase("depthwise_5x5", 2, 40, 9, 23, 40, kernel=(5, 5), padding=(2, 2), groups=40),
    ConvCase(
        "depthwise_7x7", 1, 16, 13, 30, 16, kernel=(7, 7), stride=(1, 2), padding=(3, 3), groups=16
    ),
    ConvCase("depthwise_dilated", 2, 20, 12, 17, 20, padding=(0, 4), dilation=(2, 3), groups=20),
    ConvCase("depthwise_row", 2, 16, 3, 26, 16, kernel=(1, 11), stride=(3, 1), groups=16),
    ConvCase(
        "depthwise_smaller_than_kernel", 2, 16, 2, 3, 16, kernel=(5, 5), padding=(3, 2), groups=16
    ),
    # Runs of neighbouring taps, in blocks of eight or seven pixels and what is left of a row.
    ConvCase("depthwise_sevens", 3, 70, 7, 14, 70, padding=(1, 1), groups=70),
    ConvCase("depthwise_3x5", 2, 24, 7, 19, 24, kernel=(3, 5), padding=(0, 4), groups=24),
    ConvCase(
        "depthwise_5x5_strided",
        2,
        40,
        14,
        29,
        40,
        kernel=(5, 5),
        stride=(2, 2),
        padding=(2, 2),
        groups=40,
    ),
    ConvCase("depthwise_7x7_narrow", 2, 33, 7, 7, 33, kernel=(7, 7), padding=(3, 3), groups=33),
    ConvCase("depthwise_even", 2, 24, 9, 13, 24, kernel=(2, 2), groups=24),
    ConvCase("depthwise_beyond_padding", 2, 16, 6, 9, 16, padding=(4, 5), groups=16),
    ConvCase("depthwise_stride_3", 2, 20, 10, 28, 20, stride=(3, 3), padding=(1, 1), groups=20),
    # Rows enough for both gradients in one pass.
    ConvCase("depthwise_many_rows", 4, 24, 36, 37, 24, padding=(1, 1), groups=24),
    ConvCase(
        "depthwise_many_rows_strided", 6, 20, 55, 57, 20, stride=(2, 2), padding=(1, 1), groups=20
    ),
    ConvCase(
        "depthwise_many_rows_5x5",
        5,
        17,
        31,
        64,
        17,
        kernel=(5, 5),
        stride=(1, 2),
        padding=(4, 1),
        groups=17,
    ),
    ConvCase(
        "depthwise_many_rows_dilated", 3, 16, 40, 50, 16, dilation=(3, 2), padding=(2, 0), groups=16
    ),
    ConvCase("depthwise_many_channels", 6, 500, 10, 10, 500, padding=(1, 1), groups=500),
    ConvCase("few_outputs", 2, 20, 8, 8, 5, padding=(1, 1)),
    ConvCase("one_output_pixel", 2, 16, 3, 3, 16),
]

# Elements of activation maps (N, C, H, W) for normalisation, pooling, dropout.
MAP_SHAPES = [
    (4, 32, 13, 13),
    (2, 64, 8, 8),
    (3, 19, 5, 7),
    (1, 1, 2, 2),
    (5, 3, 9, 4),
    (2, 130, 3, 3),
    (64, 16, 4, 4),
]
