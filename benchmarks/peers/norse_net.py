"""Norse: `LIFBoxCell` and `LIBoxCell` lifted over time, which comes first.

The function `lift` iterates over the steps; the module `Lift` indexes them, which costs T^2 in the backward pass.
"""

import torch
from norse.torch.functional.leaky_integrator_box import LIBoxParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from norse.torch.functional.lift import lift
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif_box import LIFBoxCell

from benchmarks.peers.torch_net import TorchNet


class Net(TorchNet):
    """Norse's box LIF is v <- v + k (x - v) with k = dt tau_mem_inv, spike, reset at once.

    To make it the same model: k = 1 - beta; the weights are divided by k; the reset method takes threshold / beta off
    (which decays to threshold by the next step), detached. Its SuperSpike has slope 1 whatever `alpha` says (1.1.0),
    so voltage and threshold are multiplied by the slope, and each layer's gradient is divided by what that brings.
    """

    packages = ("norse", "torch")

    def make(self, weights):
        super().make(weights)
        shape = self.shape
        keep = 1 - shape.beta
        self.gain = shape.slope / keep
        depth = len(weights) - 1
        self.scale = [shape.slope ** (depth - k) for k in range(depth + 1)]

        def reset(z, v, _, threshold):
            return v - z.detach() * (threshold / shape.beta)

        lif = LIFBoxParameters(
            tau_mem_inv=torch.tensor(keep / shape.dt),
            v_th=torch.tensor(shape.slope),
            method="super",
            reset_method=reset,
        )
        li = LIBoxParameters(tau_mem_inv=torch.tensor((1 - shape.beta_out) / shape.dt))
        self.cells = [lift(LIFBoxCell(lif, dt=shape.dt)) for _ in weights[:-1]] + [lift(LIBoxCell(li, dt=shape.dt))]

    def logits(self, x):
        for w, cell in zip(self.weights, self.cells, strict=True):
            gain = 1.0 if cell is self.cells[-1] else self.gain
            drive = self.shifted(x) @ (gain * w)
            if self.shape.delay:
                drive = torch.cat([torch.zeros_like(drive[: self.shape.delay]), drive])
            x, _ = cell(drive)
        return x.sum(0)
