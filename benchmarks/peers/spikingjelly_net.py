"""SpikingJelly: multi-step mode with its own fused CPU backward, `Linear` and `LIFNode` with step_mode "m"."""

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate

from benchmarks.peers.torch_net import TorchNet


class Net(TorchNet):
    """LIFNode with tau = 1 / (1 - beta), decay_input=False, v_reset=None (subtract), detach_reset=True.

    One difference stays: SpikingJelly resets at the spike, so that the threshold taken off decays with v by the next
    step: v[t] = beta (v[t-1] - theta s[t-1]) + x[t]. The surrogate of the family that has the fused path, SoftSign, is
    slope / 2 times ours; each layer's gradient is divided by what that brings.
    """

    packages = ("spikingjelly", "torch")

    def make(self, weights):
        shape = self.shape
        self.linear = [layer.Linear(*w.shape, bias=False, step_mode="m") for w in weights]
        for linear, w in zip(self.linear, weights, strict=True):
            linear.weight.data.copy_(torch.from_numpy(w.T))
        depth = len(weights) - 1
        self.scale = [(shape.slope / 2) ** (depth - k) for k in range(depth + 1)]
        self.neurons = [
            neuron.LIFNode(
                tau=1 / (1 - shape.beta),
                decay_input=False,
                v_reset=None,
                detach_reset=True,
                surrogate_function=surrogate.SoftSign(alpha=shape.slope),
                step_mode="m",
            )
            for _ in weights[:-1]
        ]
        self.readout = neuron.NonSpikingLIFNode(tau=1 / (1 - shape.beta_out))

    def parameters(self):
        return [linear.weight for linear in self.linear]

    def logits(self, x):
        for linear, node in zip(self.linear, self.neurons, strict=False):
            drive = linear(self.shifted(x))
            if self.shape.delay:
                drive = torch.cat([torch.zeros_like(drive[: self.shape.delay]), drive])
            x = node(drive)
            functional.reset_net(node)
        # Stepped here: NonSpikingLIFNode's own loop indexes the steps, which costs T^2 in the backward pass.
        drive = self.unshifted(self.linear[-1](self.shifted(x)))
        self.readout.v = torch.zeros_like(drive[0])
        total = 0
        for x_t in drive:
            self.readout.neuronal_charge(x_t)
            total = total + self.readout.v
        return total
