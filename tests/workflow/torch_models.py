"""Small torch models of every kind that `convert` must take or refuse."""

import torch
from torch import nn


class Cnn(nn.Module):
    """Convolution, BatchNormalization with statistics of its own, pooling, head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            self.norm.running_mean.copy_(torch.randn(8, generator=generator))
            self.norm.running_var.copy_(torch.rand(8, generator=generator) + 0.5)

    def forward(self, image):
        return self.head(self.drop(torch.relu(self.norm(self.conv(image))).mean((2, 3))))


class TwoInputs(nn.Module):
    """Two inputs of one shape, which are not interchangeable; nested outputs, one of them None."""

    def forward(self, left, right):
        difference = left - 2 * right
        return {"difference": difference, "parts": (difference.relu(), None, difference.sum(1)), "left": left + 1}


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, (x > 0).long()


class Transformer(nn.Module):
    """Token embedding, multi-head attention with a causal mask, scaled dot product attention."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 50)

    def forward(self, tokens):
        hidden = self.layer(self.embed(tokens), is_causal=True, src_mask=self.mask(tokens.shape[1]))
        heads = hidden.unflatten(-1, (2, 8)).transpose(1, 2)
        heads = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return self.head(heads.transpose(1, 2).flatten(2))

    def mask(self, length):
        return torch.triu(torch.full((length, length), float("-inf")), diagonal=1)


class Branch(nn.Module):
    """Control flow that depends on values."""

    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1


class FixedBatch(nn.Module):
    """Code that takes one batch size only."""

    def forward(self, x):
        return x.reshape(2, 12)


class Even(nn.Module):
    """Takes even batches only."""

    def forward(self, x):
        return x.reshape(-1, 2, 3)


class NoOperator(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]


class FlatAttention(nn.Module):
    """Attention on three dimensions, which the exporter does not translate."""

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)


class Noisy(nn.Module):
    """Another result in every run: no graph can agree with it."""

    def forward(self, x):
        return x + torch.rand_like(x)


class NotANumber(nn.Module):
    def forward(self, x):
        return torch.log(-x.abs() - 1)


class Counting(nn.Module):
    """Writes to a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        return x + self.seen


class Positions(nn.Module):
    """Takes up to eight positions, as learned position embeddings do."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.arange(8.0))

    def forward(self, x):
        return x * self.places[: x.shape[1]]


class Number(nn.Module):
    def forward(self, x):
        return x, 3


class OwnNames(nn.Module):
    """A parameter called as the input, and one called as the output."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.output = nn.Parameter(torch.tensor([5.0, 7.0]))

    def forward(self, x):
        return x * self.x + self.output


class Bfloat(nn.Linear):
    def __init__(self):
        super().__init__(3, 2, dtype=torch.bfloat16)


def cnn():
    return Cnn()


def failing():
    raise ValueError("no such checkpoint")


def wants(size):
    return size


def a_dict():
    return {}


ready = Cnn()
