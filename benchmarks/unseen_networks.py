"""Small networks of kinds that no default of fewbits was made with: their torch modules, as their papers draw them.

All of them take scikit-learn's digits: images [n, 1, 16, 16], or [n, 64] tokens, one a pixel of 8x8 in 17 levels.
"""

# ruff: noqa: D102 - what `forward` computes stands in the docstring of its class
import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES, LEVELS, LENGTH = 10, 17, 64


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without a bias, for a normalization behind it."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def norm_act(channels: int, act: nn.Module) -> nn.Sequential:
    """Return a BatchNorm and an activation function."""
    return nn.Sequential(nn.BatchNorm2d(channels), act)


class SqueezeExcite(nn.Module):
    """Channels weighed by a gate that sees their means."""

    def __init__(self, channels: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.act, self.gate = act, gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(self.act(self.down(functional.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze and excite, project: the block of MobileNetV3 and EfficientNet."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        wide = inputs * 4
        self.layers = nn.Sequential(
            conv(inputs, wide, 1), norm_act(wide, act()),
            conv(wide, wide, 3, stride, groups=wide), norm_act(wide, act()),
            SqueezeExcite(wide, nn.ReLU() if act is nn.Hardswish else act(), gate()),
            conv(wide, outputs, 1), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)


def inverted(act: type[nn.Module], gate: type[nn.Module]) -> nn.Module:
    """Return a network of inverted residuals."""
    return nn.Sequential(
        conv(1, 16, 3), norm_act(16, act()),
        InvertedResidual(16, 16, 1, act, gate), InvertedResidual(16, 24, 2, act, gate),
        InvertedResidual(24, 24, 1, act, gate), InvertedResidual(24, 40, 2, act, gate),
        InvertedResidual(40, 40, 1, act, gate), conv(40, 96, 1), norm_act(96, act()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64), act(), nn.Dropout(0.2), nn.Linear(64, CLASSES),
    )  # fmt: skip


class AttentionBlock(nn.Module):
    """Attention and an MLP, each behind a LayerNorm."""

    def __init__(self, width: int, heads: int, approximate: str = "none", *, is_causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate), nn.Linear(4 * width, width))
        mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1) if is_causal else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False, attn_mask=self.mask)[0]
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches of 4x4, a class token, learned positions."""

    def __init__(self, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(AttentionBlock(width, 4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Pixels(nn.Module):
    """A decoder that predicts the next pixel: embeddings of tokens and positions, causal attention."""

    def __init__(self, width: int = 48, depth: int = 3) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(LEVELS + 1, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(AttentionBlock(width, 4, "tanh", is_causal=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, LEVELS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.position.weight)))


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, LayerNorm over channels at the end, an MLP with GELU, a learned scale per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """Return a ConvNeXt of two stages."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 2, 2), LayerNorm2d(24), ConvNextBlock(24), ConvNextBlock(24),
        LayerNorm2d(24), nn.Conv2d(24, 48, 2, 2), ConvNextBlock(48), ConvNextBlock(48),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(48), nn.Linear(48, CLASSES),
    )  # fmt: skip


class UNet(nn.Module):
    """A denoiser: GroupNorm down, InstanceNorm up, ConvTranspose, Concat; it predicts the noise."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1, self.down2, self.deep = (
            self._pair(*sizes, lambda channels: nn.GroupNorm(4, channels))
            for sizes in ((1, width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.up2, self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join2, self.join1 = (
            self._pair(2 * size, size, lambda channels: nn.InstanceNorm2d(channels, affine=True))
            for size in (2 * width, width)
        )
        self.last = nn.Conv2d(width, 1, 1)

    @staticmethod
    def _pair(inputs: int, outputs: int, norm: type[nn.Module] | object) -> nn.Sequential:
        layers: list[nn.Module] = []
        for size in (inputs, outputs):
            layers += [nn.Conv2d(size, outputs, 3, padding=1), norm(outputs), nn.LeakyReLU(0.1)]  # type: ignore[operator]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        deep = self.deep(functional.max_pool2d(two, 2))
        two = self.join2(torch.cat((self.up2(deep), two), 1))
        one = self.join1(torch.cat((self.up1(two), one), 1))
        return x - self.last(one)


class DenseLayer(nn.Module):
    """What a layer of a DenseNet adds to all that was there."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), conv(inputs, 2 * growth, 1),
            nn.BatchNorm2d(2 * growth), nn.ReLU(), conv(2 * growth, growth, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.layers(x)), 1)


def densenet(growth: int = 12) -> nn.Module:
    """Return a DenseNet of two blocks, pre-activated, with average pooling between them."""
    layers: list[nn.Module] = [conv(1, 16, 3)]
    channels = 16
    for block in range(2):
        for _ in range(4):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        if block == 0:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *end)


class Recurrent(nn.Module):
    """Rows of the image, one after the other, through a recurrent network."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM], width: int = 48) -> None:
        super().__init__()
        self.rows = nn.Linear(16, 32)
        self.cell = kind(32, width, 1, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(2 * width, 64), nn.Tanh(), nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(functional.relu(self.rows(x.flatten(1, 2))))[0].mean(1))


class ShuffleBlock(nn.Module):
    """Grouped 1x1, shuffled channels, depthwise, grouped 1x1, PReLU; the same 3x3 layer twice around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(width, width, 3, padding=1)
        self.layers = nn.Sequential(
            conv(width, width, 1, groups=4), norm_act(width, nn.PReLU(width)), nn.ChannelShuffle(4),
            conv(width, width, 3, groups=width), nn.BatchNorm2d(width),
            conv(width, width, 1, groups=4), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.act = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.shared(x))
        return self.act(self.shared(self.act(x + self.layers(x))))


def shuffle() -> nn.Module:
    """Return a network of grouped and shuffled convolutions with max-pooling."""
    return nn.Sequential(
        conv(1, 32, 3), norm_act(32, nn.PReLU(32)), ShuffleBlock(32), nn.MaxPool2d(2), conv(32, 48, 1),
        norm_act(48, nn.PReLU(48)), ShuffleBlock(48), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(48 * 16, CLASSES),
    )  # fmt: skip
