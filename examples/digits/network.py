"""The network of the digits example: depthwise-separable convolutions with three kinds of activation."""

import torch
from torch import nn

# (channels out, stride, expansion, activation) of each block, in order.
BLOCKS: tuple[tuple[int, int, int, type[nn.Module]], ...] = (
    (8, 1, 4, nn.LeakyReLU),
    (8, 1, 4, nn.SiLU),
    (8, 1, 4, nn.LeakyReLU),
    (8, 1, 4, nn.SiLU),
    (12, 2, 4, nn.LeakyReLU),
    (12, 1, 4, nn.SiLU),
    (12, 1, 4, nn.ReLU6),
    (12, 1, 4, nn.SiLU),
    (16, 1, 4, nn.LeakyReLU),
    (16, 1, 4, nn.ReLU6),
)


class Block(nn.Module):
    """An inverted residual block: expand 1x1, depthwise 3x3, project 1x1, and an add where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, activation: type[nn.Module]) -> None:
        super().__init__()
        wide = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            activation(),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            activation(),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the block."""
        y: torch.Tensor = self.body(x)
        return x + y if self.residual else y


class DigitNet(nn.Module):
    """Ten logits from images of shape [batch, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        blocks: list[nn.Module] = []
        channels = 16
        for outputs, stride, expansion, activation in BLOCKS:
            blocks.append(Block(channels, outputs, stride, expansion, activation))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Conv2d(channels, 96, 1, bias=False), nn.BatchNorm2d(96), nn.SiLU())
        self.classify = nn.Linear(96, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify a batch of images."""
        features: torch.Tensor = self.head(self.blocks(self.stem(image)))
        logits: torch.Tensor = self.classify(features.mean(dim=(2, 3)))
        return logits
