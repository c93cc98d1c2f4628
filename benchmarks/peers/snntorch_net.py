"""snnTorch: `Leaky` neurons stepped in Python as in its tutorials, but each Linear applied to all steps at once."""

import snntorch
import torch
from snntorch import surrogate

from benchmarks.peers.torch_net import TorchNet


class Net(TorchNet):
    """snnTorch's Leaky is the same model: the spike of the previous step resets, detached. The readout is a Leaky
    without reset, whose drive lacks our factor (1 - beta): it is put on the sum."""

    packages = ("snntorch", "torch")

    def make(self, weights):
        self.linear = [torch.nn.Linear(*w.shape, bias=False) for w in weights]
        for linear, w in zip(self.linear, weights, strict=True):
            linear.weight.data.copy_(torch.from_numpy(w.T))
        grad = surrogate.fast_sigmoid(slope=self.shape.slope)
        self.neurons = [snntorch.Leaky(beta=self.shape.beta, spike_grad=grad) for _ in weights[:-1]]
        self.neurons.append(snntorch.Leaky(beta=self.shape.beta_out, reset_mechanism="none"))

    def parameters(self):
        return [linear.weight for linear in self.linear]

    def logits(self, x):
        for linear, neuron in zip(self.linear, self.neurons, strict=True):
            mem = neuron.reset_mem()
            spikes, total = [], 0
            last = neuron is self.neurons[-1]
            for x_t in self.unshifted(linear(self.shifted(x))):
                spike, mem = neuron(x_t, mem)
                if last:
                    total = total + mem
                else:
                    spikes.append(spike)
            x = None if last else torch.stack(spikes)
        return (1 - self.shape.beta_out) * total
