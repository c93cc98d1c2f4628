"""Residual networks, by the names that their usual weight files have.

Source: He, Zhang, Ren & Sun 2016, "Deep Residual Learning for Image Recognition", table 1 (ImageNet) and
section 4.2 (CIFAR).
"""

from __future__ import annotations

import numpy as np

from nsim.ann.graph import Graph
from nsim.checks import one_of


def resnet20(classes=10, *, shortcut="A", dtype=np.float32, seed=None) -> Graph:
    """ResNet-20 for images of 32 x 32 (CIFAR): 3 stages of 3 blocks, 16 to 64 channels.

    Parameters
    ----------
    classes : int
    shortcut : "A" or "B"
        Where a stage begins: every second pixel and channels of zeros, without parameters (A, as in the paper), or a
        convolution with a kernel of 1 and batch norm (B).
    dtype, seed
        See `Graph`.

    Names are conv1, bn1, layer1.0.conv1, ..., linear, as in Yerlan Idelbayev's pytorch_resnet_cifar10.
    """
    return _cifar(3, classes, shortcut, dtype, seed)


def resnet32(classes=10, *, shortcut="A", dtype=np.float32, seed=None) -> Graph:
    """ResNet-32 for CIFAR: 3 stages of 5 blocks; see `resnet20`."""
    return _cifar(5, classes, shortcut, dtype, seed)


def resnet44(classes=10, *, shortcut="A", dtype=np.float32, seed=None) -> Graph:
    """ResNet-44 for CIFAR: 3 stages of 7 blocks; see `resnet20`."""
    return _cifar(7, classes, shortcut, dtype, seed)


def resnet56(classes=10, *, shortcut="A", dtype=np.float32, seed=None) -> Graph:
    """ResNet-56 for CIFAR: 3 stages of 9 blocks; see `resnet20`."""
    return _cifar(9, classes, shortcut, dtype, seed)


def resnet34(classes=1000, *, dtype=np.float32, seed=None) -> Graph:
    """ResNet-34 for images of 224 x 224 (ImageNet): stages of 3, 4, 6 and 3 blocks, shortcuts of option B.

    Names are conv1, bn1, layer1.0.conv1, ..., layer2.0.downsample.0, ..., fc, as in torchvision. See `resnet20`.
    """
    net = Graph(dtype=dtype, seed=seed)
    x = net.input((3, 224, 224))
    x = _conv_norm(net, x, 64, 7, 2, "conv1", "bn1")
    x = net.max_pool(net.relu(x, name="relu"), 3, stride=2, padding=1, name="maxpool")
    for stage, blocks in enumerate((3, 4, 6, 3)):
        x = _stage(net, x, f"layer{stage + 1}", 64 << stage, blocks, 1 if stage == 0 else 2, "B", "downsample")
    net.linear(net.flatten(net.global_avg_pool(x, name="avgpool"), name="flatten"), classes, name="fc")
    return net


def _cifar(blocks, classes, shortcut, dtype, seed):
    one_of("resnet", "shortcut", shortcut, ("A", "B"))
    net = Graph(dtype=dtype, seed=seed)
    x = net.relu(_conv_norm(net, net.input((3, 32, 32)), 16, 3, 1, "conv1", "bn1"), name="relu1")
    for stage in range(3):
        x = _stage(net, x, f"layer{stage + 1}", 16 << stage, blocks, 1 if stage == 0 else 2, shortcut, "shortcut")
    net.linear(net.flatten(net.global_avg_pool(x, name="avgpool"), name="flatten"), classes, name="linear")
    return net


def _stage(net, x, name, channels, blocks, stride, shortcut, short_name):
    """`blocks` basic blocks; the first has the stride, and a shortcut that changes the number of channels with it."""
    for k in range(blocks):
        block, step = f"{name}.{k}", stride if k == 0 else 1
        y = net.relu(_conv_norm(net, x, channels, 3, step, f"{block}.conv1", f"{block}.bn1"), name=f"{block}.relu1")
        y = _conv_norm(net, y, channels, 3, 1, f"{block}.conv2", f"{block}.bn2")
        if x.shape != y.shape:
            short = f"{block}.{short_name}"
            if shortcut == "A":
                x = net.identity_shortcut(x, channels, stride=step, name=short)
            else:
                x = _conv_norm(net, x, channels, 1, step, f"{short}.0", f"{short}.1")
        x = net.relu(net.add(y, x, name=f"{block}.add"), name=f"{block}.relu2")
    return x


def _conv_norm(net, x, channels, kernel, stride, conv, norm):
    x = net.conv2d(x, channels, kernel, stride=stride, padding=kernel // 2, bias=False, name=conv)
    return net.batch_norm(x, name=norm)
