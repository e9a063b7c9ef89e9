"""Trains on images of one's own from verified weights: `python examples/own_training_loop.py imagenet images/ 5`.

`images/` holds one folder per class. Run it in the repository's top folder, where params.yaml and data/weights are.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import medtransfer as mt


def train(init: str, folder: str, epochs: int, side: int = 224) -> tuple[nn.Module, list[float]]:
    """Returns the network and the mean loss of every epoch."""
    network, mean, std = mt.backbone(init, image_size=side)
    steps = [transforms.Resize((side, side)), transforms.ToTensor(), transforms.Normalize(mean, std)]
    images = ImageFolder(folder, transforms.Compose(steps))
    model = nn.Sequential(network, nn.LazyLinear(len(images.classes)))
    model(torch.zeros(2, 3, side, side))  # the head takes the width of the features
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for inputs, targets in DataLoader(images, batch_size=16, shuffle=True):
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
            optimizer.step()
            total += loss.item() * len(targets)
        losses.append(total / len(images))
    return model, losses


if __name__ == "__main__":
    print(train(sys.argv[1], sys.argv[2], int(sys.argv[3]))[1])
