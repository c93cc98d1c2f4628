"""Conventional networks (ANNs): graphs of convolutions and what belongs to them, trained in nsim or loaded, to convert.

Forward and backward are NumPy and BLAS. Images are [B, C, H, W]; inside of a graph pictures are [B, H, W, C].
"""

from nsim.ann.conv import Conv2d, IdentityShortcut
from nsim.ann.graph import OPERATIONS, Graph, Node
from nsim.ann.onnx_file import from_onnx
from nsim.ann.operation import Add, Affine, BatchNorm, Flatten, Input, Linear, Operation, ReLU
from nsim.ann.pooling import AvgPool, GlobalAvgPool, MaxPool, Pool
from nsim.ann.resnet import resnet20, resnet32, resnet34, resnet44, resnet56
from nsim.ann.vgg import vgg16
from nsim.nn import LAYERS

LAYERS["Graph"] = Graph.build  # so that nsim.save and nsim.load know graphs

__all__ = [
    "OPERATIONS", "Add", "Affine", "AvgPool", "BatchNorm", "Conv2d", "Flatten", "GlobalAvgPool", "Graph",
    "IdentityShortcut", "Input", "Linear", "MaxPool", "Node", "Operation", "Pool", "ReLU", "from_onnx", "resnet20",
    "resnet32", "resnet34", "resnet44", "resnet56", "vgg16",
]  # fmt: skip
