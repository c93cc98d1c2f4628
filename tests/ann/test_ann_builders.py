"""ResNet and VGG: names, sizes and outputs against the same networks written in torch; the shared trained weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn as tnn
from torch.nn import functional as F

import nsim
from nsim import ann
from nsim.errors import ParameterError

ROOT = Path(os.environ.get("NSIM_DATA") or "nowhere") / "cifar10-subset"


class Block(tnn.Module):
    """Basic block; `short` names the shortcut of option B."""

    def __init__(self, n_in, n_out, stride, option, short):
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), tnn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = tnn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), tnn.BatchNorm2d(n_out)
        self.option, self.short, self.new = option, short, n_out - n_in
        if option == "B" and self.new:
            setattr(self, short, tnn.Sequential(tnn.Conv2d(n_in, n_out, 1, stride, bias=False), tnn.BatchNorm2d(n_out)))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.new and self.option == "A":
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))
        elif self.new:
            x = getattr(self, self.short)(x)
        return F.relu(y + x)


class ResNet(tnn.Module):
    def __init__(self, blocks, width, option, short, classifier):
        super().__init__()
        self.imagenet, n_in, self.last = width == 64, width, classifier
        self.conv1 = (
            tnn.Conv2d(3, width, 7, 2, 3, bias=False) if self.imagenet else tnn.Conv2d(3, width, 3, 1, 1, bias=False)
        )
        self.bn1, self.stages = tnn.BatchNorm2d(width), len(blocks)
        for k, count in enumerate(blocks):
            layers = []
            for j in range(count):
                layers.append(Block(n_in, width << k, 2 if k and not j else 1, option, short))
                n_in = width << k
            setattr(self, f"layer{k + 1}", tnn.Sequential(*layers))
        setattr(self, classifier, tnn.Linear(n_in, 1000 if self.imagenet else 10))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1) if self.imagenet else x
        for k in range(self.stages):
            x = getattr(self, f"layer{k + 1}")(x)
        return getattr(self, self.last)(x.mean(dim=(2, 3)))


def vgg(batch_norm, head="cifar"):
    """torchvision's layout: features and classifier by their place in the list."""
    layers, n_in = [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            norm = [tnn.BatchNorm2d(width)] if batch_norm else []
            layers += [tnn.Conv2d(n_in, width, 3, padding=1), *norm, tnn.ReLU()]
            n_in = width
        layers.append(tnn.MaxPool2d(2))
    net = tnn.Module()
    net.features, net.classifier = tnn.Sequential(*layers), tnn.Linear(512, 10)
    if head == "imagenet":
        wide = (tnn.Linear(25088, 4096), tnn.ReLU(), tnn.Dropout(), tnn.Linear(4096, 4096), tnn.ReLU(), tnn.Dropout())
        net.classifier = tnn.Sequential(*wide, tnn.Linear(4096, 1000))
    net.forward = lambda x: net.classifier(net.features(x).flatten(1))
    return net


BUILDERS = {
    "resnet20 A": (lambda: ann.resnet20(), lambda: ResNet([3] * 3, 16, "A", "shortcut", "linear")),
    "resnet20 B": (lambda: ann.resnet20(shortcut="B"), lambda: ResNet([3] * 3, 16, "B", "shortcut", "linear")),
    "resnet32": (lambda: ann.resnet32(), lambda: ResNet([5] * 3, 16, "A", "shortcut", "linear")),
    "resnet44 B": (lambda: ann.resnet44(shortcut="B"), lambda: ResNet([7] * 3, 16, "B", "shortcut", "linear")),
    "resnet56": (lambda: ann.resnet56(), lambda: ResNet([9] * 3, 16, "A", "shortcut", "linear")),
    "resnet34": (lambda: ann.resnet34(), lambda: ResNet([3, 4, 6, 3], 64, "B", "downsample", "fc")),
    "vgg16": (lambda: ann.vgg16(), lambda: vgg(True)),
    "vgg16 plain": (lambda: ann.vgg16(batch_norm=False), lambda: vgg(False)),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_builders_are_the_torch_networks(name):
    """Weights by torch's names, batch norms with statistics of their own; float32 outputs within rounding."""
    torch.manual_seed(0)
    theirs = BUILDERS[name][1]().eval()
    for layer in theirs.modules():
        if isinstance(layer, tnn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
    net = BUILDERS[name][0]()
    net.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    channels_last = net["input"].shape
    x = torch.randn(2, 3, *channels_last[:2])
    with torch.no_grad():
        expected = theirs(x).numpy()
    output = net.forward(x.numpy())[0]
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    torch_names = [k for k in theirs.state_dict() if not k.endswith("num_batches_tracked")]
    assert sorted(net.state_dict()) == sorted(torch_names)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg_for_imagenet_has_the_names_and_shapes_of_torchvision(batch_norm):
    """138 million parameters: torch describes its own without making them."""
    with torch.device("meta"):
        theirs = vgg(batch_norm, "imagenet").state_dict()
    net = ann.vgg16(head="imagenet", batch_norm=batch_norm)
    ours = {name: a.shape for name, a in (net.named_parameters() | net.named_buffers()).items()}
    assert ours == {name: tuple(a.shape) for name, a in theirs.items() if not name.endswith("num_batches_tracked")}
    assert net["flatten"].shape == (25088,) and net.output.shape == (1000,)


def test_numbers_of_parameters():
    """As table 6 of He et al. 2016 and torchvision have them."""

    def size(net):
        return sum(p.size for p in net.parameters())

    assert [round(size(f()) / 1e6, 2) for f in (ann.resnet20, ann.resnet32, ann.resnet44, ann.resnet56)] == [
        0.27, 0.46, 0.66, 0.85,
    ]  # fmt: skip
    assert size(ann.resnet34()) == 21_797_672
    assert size(ann.vgg16(classes=100)) == 14_728_266 + 90 * 513


def test_options():
    assert ann.resnet20(100).output.shape == (100,) and ann.vgg16(head="imagenet", classes=7).output.shape == (7,)
    with pytest.raises(ParameterError, match="shortcut = 'C'"):
        ann.resnet20(shortcut="C")
    with pytest.raises(ParameterError, match="head = 'mnist'"):
        ann.vgg16(head="mnist")
    assert ann.resnet20(dtype=np.float64)(np.zeros((1, 3, 32, 32))).dtype == np.float64


@pytest.mark.skipif(not (ROOT / "test_500.bin").exists(), reason="needs NSIM_DATA with cifar10-subset")
@pytest.mark.parametrize("name, blocks, accuracy", [("resnet20", 3, 0.91), ("resnet56", 9, 0.94)])
def test_trained_weights_on_cifar10(name, blocks, accuracy):
    """The same classes as torch with the same weights, on the first 500 test images of CIFAR-10."""
    raw = np.fromfile(ROOT / "test_500.bin", np.uint8).reshape(-1, 3073)
    mean, std = np.array([[[[0.485]], [[0.456]], [[0.406]]], [[[0.229]], [[0.224]], [[0.225]]]], np.float32)
    x = (raw[:, 1:].reshape(-1, 3, 32, 32) / np.float32(255) - mean) / std
    weights = nsim.read_weights(ROOT / f"{name}.safetensors")
    net = getattr(ann, name)()
    net.load_state_dict(weights)
    theirs = ResNet([blocks] * 3, 16, "A", "shortcut", "linear").eval()
    theirs.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
    output = net(x).data
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(output.argmax(axis=1), expected.argmax(axis=1))
    assert (output.argmax(axis=1) == raw[:, 0]).mean() == accuracy
