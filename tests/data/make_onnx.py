"""Makes the ONNX files of tests/ann/test_ann_onnx.py: small networks with random weights, as torch exports them.

    python tests/data/make_onnx.py

writes <name>.onnx beside this script, and onnx.npz with an input and torch's output for each. It needs torch, onnx and
onnxscript; the tests need onnx alone. Made with torch 2.13.0, onnx 1.23.2 and onnxscript 0.7.2.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent


class Residual(nn.Module):
    """CIFAR's kind of residual network: option A (slices and zeros) or B (convolution and batch norm)."""

    def __init__(self, option):
        super().__init__()
        self.option = option
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        if option == "B":
            self.shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, 2, bias=False), nn.BatchNorm2d(8))
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x)))))
        x = self.shortcut(x) if self.option == "B" else F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3))
        x = F.relu(y + x)
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


def vgg_like():
    """Pooling between convolutions, dropout, several linear layers; no batch norm."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout2d(0.1), nn.AvgPool2d(3, 2, 1),
        nn.Flatten(), nn.Linear(32, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5),
    )  # fmt: skip


class ImageNetLike(nn.Module):
    """A stem with a large kernel and an overlapping pooling, an adaptive pooling, and a mean over pixels."""

    def __init__(self, mean):
        super().__init__()
        self.mean = mean
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.conv2, self.fc = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Linear(8, 5, bias=False)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = F.relu(self.conv2(x) + x)
        x = x.mean(dim=(2, 3)) if self.mean else torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.fc(x)


def depthwise():
    """Depthwise and pointwise convolutions with lopsided kernels and strides."""
    return nn.Sequential(
        nn.Conv2d(2, 6, (1, 3), (1, 2), (0, 1)), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AvgPool2d(2, 2, 1, count_include_pad=False), nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4))


NEW = {"dynamo": True, "external_data": False}
OLD = {"dynamo": False}
KEPT = OLD | {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
OPEN = OLD | {"dynamic_axes": {"x": {0: "batch"}}}
SIZES = {"dynamic_axes": {"x": {0: "batch", 2: "height", 3: "width"}}}
CASES = {
    "residual_a": (lambda: Residual("A"), (3, 8, 8), NEW),
    "residual_a_old": (lambda: Residual("A"), (3, 8, 8), OPEN),
    "residual_a_raw": (lambda: Residual("A"), (3, 8, 8), NEW | {"optimize": False}),
    "residual_b": (lambda: Residual("B"), (3, 8, 8), NEW | {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}),
    "residual_b_old": (lambda: Residual("B"), (3, 8, 8), KEPT),
    "vgg": (vgg_like, (3, 8, 8), NEW),
    "vgg_old": (vgg_like, (3, 8, 8), OPEN),
    "imagenet": (lambda: ImageNetLike(False), (3, 20, 24), NEW),
    "imagenet_old": (lambda: ImageNetLike(True), (3, 20, 24), KEPT | {"opset_version": 12}),
    "imagenet_open": (lambda: ImageNetLike(False), (3, 20, 24), OLD | SIZES),
    "depthwise": (depthwise, (2, 7, 9), NEW),
    "depthwise_old": (depthwise, (2, 7, 9), KEPT),
    "mlp": (mlp, (7,), NEW | {"optimize": False}),
    "softmax": (lambda: nn.Sequential(mlp(), nn.Softmax(dim=1)), (7,), NEW),
    "relu6": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(8, 2)), (3, 4, 4), OLD),
    "sigmoid": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, 2)), (3, 4, 4), OLD),
}


def main():
    arrays = {}
    for k, (name, (make, shape, options)) in enumerate(CASES.items()):
        torch.manual_seed(k)
        net = make().eval()
        for layer in net.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.weight.data.uniform_(0.5, 1.5)
                layer.bias.data.normal_(0, 0.3)
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.5, 2)
        x = torch.randn(3, *shape)
        path = HERE / f"{name}.onnx"
        torch.onnx.export(net, (x,), str(path), input_names=["x"], verbose=False, **options)
        model = onnx.load(path)
        for node in model.graph.node:  # where in torch's sources a node comes from, and paths of this machine
            del node.metadata_props[:]
            node.doc_string = ""
        for value in [*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]:
            del value.metadata_props[:]
        del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
        onnx.save(model, path)
        with torch.no_grad():
            arrays[f"{name}.x"], arrays[f"{name}.y"] = x.numpy(), net(x).numpy()
    np.savez_compressed(HERE / "onnx.npz", **arrays)


if __name__ == "__main__":
    main()
