"""SpikingJelly's converter on the same trained ResNet-20, in torch."""

from __future__ import annotations

import numpy as np
import torch
from spikingjelly.activation_based import ann2snn, functional
from torch import nn


class Block(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(channels), nn.ReLU()
        self.short = nn.Identity()
        if stride != 1:  # every second pixel and channels of zeros, as a module, which the converter asks for
            weight, own = torch.zeros(channels, before, 1, 1), torch.arange(before)
            weight[own + (channels - before) // 2, own] = 1
            self.short = nn.Conv2d(before, channels, 1, stride, bias=False)
            self.short.weight.data.copy_(weight)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.short(x))


class ResNet20(nn.Module):
    """By the names of the weight file; the ReLUs are modules, which the converter replaces."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        for stage, channels in enumerate((16, 32, 64)):
            first = Block(max(16, channels // 2), channels, 1 if stage == 0 else 2)
            rest = (Block(channels, channels, 1) for _ in range(2))
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.relu1(self.bn1(self.conv1(x))))))
        return self.linear(torch.flatten(self.pool(x), 1))


class Converted:
    """99.9 percentile, IF neurons that start at 0; the mean of the outputs over the steps decides."""

    def __init__(self, net, calibration, threads):
        torch.set_num_threads(threads)
        model = ResNet20()
        missing = model.load_state_dict({k: torch.from_numpy(a) for k, a in net.state_dict().items()}, strict=False)
        own = ("num_batches_tracked", "short.weight")
        if missing.unexpected_keys or not all(name.endswith(own) for name in missing.missing_keys):
            raise ValueError(f"the weights do not fit: {missing}")
        model.eval()
        batches = [(torch.from_numpy(part), None) for part in np.array_split(calibration, len(calibration) // 64)]
        recipe = ann2snn.recipes.RateCodingRecipe(dataloader=batches, mode="99.9%")
        self.model = ann2snn.Converter(recipe).convert(model)

    @torch.no_grad()
    def __call__(self, images, steps):
        functional.reset_net(self.model)
        x = torch.from_numpy(images)
        total = 0
        for _ in range(steps):
            total = total + self.model(x)
        return (total / steps).numpy()
