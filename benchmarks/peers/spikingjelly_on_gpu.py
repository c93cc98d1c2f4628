"""SpikingJelly on the GPU: from 2.0 on it has no CuPy neurons, but fused CUDA or Triton kernels of its own."""

from benchmarks.peers import spikingjelly_net
from benchmarks.peers.on_gpu import OnGpu


class Net(OnGpu, spikingjelly_net.Net):
    """A LIFNode in multi-step mode takes the fused kernels by itself where its input is on a GPU."""

    packages = ("spikingjelly", "torch", "triton")
