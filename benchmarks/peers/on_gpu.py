"""The peers of benchmarks/gpu.py, on the GPU: nsim, and those on PyTorch with their weights and batches moved there.

Times are from device events. A step that is timed reads its loss, as a training loop does, and so did the one before:
all begin on an idle device. nsim could not do otherwise: where a loop never reads the loss, its next step begins with a
look at the device. Forward and backward alone read nothing. Peaks are what a step adds to what is held before it
(weights, optimiser, batch). Where nsim runs in the simulator, PyTorch runs on the CPU, timed by the clock.
"""

import time

import torch

from benchmarks.common import versions
from benchmarks.floor import SIMULATED
from benchmarks.floor import seconds as device_seconds
from benchmarks.peers import nsim_net, torch_net
from benchmarks.shapes import LEARNING_RATE
from nsim import optim
from nsim.errors import StepOverflow
from nsim_cuda.memory import POOL

DEVICE = "cpu" if SIMULATED else "cuda"


class Nsim(nsim_net.Net):
    """nsim on device "cuda", through its public names; only the peak is asked of its pool of memory."""

    def __init__(self, shape, weights, threads, band=0.2):
        super().__init__(shape, weights, threads, band)
        self.net.to("cuda")
        self.optimizer = optim.Adam(self.net.parameters(), lr=LEARNING_RATE)

    @property
    def versions(self):
        return versions("nsim-snn", "numba", "numba-cuda", "cuda-toolkit", "numpy")

    def prepare(self, events):
        spikes, labels = super().prepare(events)
        return spikes.to("cuda"), labels

    def device_loss(self, batch):
        """The loss of a step, made again where the lists on the device were too short for it."""
        while True:
            try:
                return self.step(batch)
            except StepOverflow:
                continue

    def device_step(self, batch):
        return device_seconds(lambda: self.device_loss(batch), repeats=1)

    def device_parts(self, batch):
        """Forward; and backward as what forward and backward take beyond it."""
        self.device_loss(batch)
        forward = device_seconds(lambda: self.forward(batch), repeats=1)
        return forward, device_seconds(lambda: self.backward(self.forward(batch)), repeats=1) - forward

    def device_peak(self, batch):
        self.device_loss(batch)
        before = POOL.in_use
        POOL.reset_peak()
        self.device_loss(batch)
        return POOL.peak - before


class OnGpu:
    """Makes a peer on PyTorch run on the GPU and measures it there. Put before the peer's class."""

    def make(self, weights):
        if DEVICE == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(
                f"PyTorch {torch.__version__} sees no GPU (it is built for {torch.version.cuda or 'the CPU alone'}); "
                'pip install -e ".[gpu]" takes a build with CUDA'
            )
        super().make(weights)
        for parameter in self.parameters():
            parameter.data = parameter.data.to(DEVICE)

    @property
    def versions(self):
        return f"{versions(*self.packages)}, torch's CUDA {torch.version.cuda}"

    def prepare(self, events):
        x, labels = super().prepare(events)
        return x.to(DEVICE), labels.to(DEVICE)

    def both(self, batch):
        loss = self.forward(batch)
        self.backward(loss)
        return loss

    def train(self, batch):
        loss = self.both(batch)
        self.optimizer.step()
        return loss

    def device_loss(self, batch):
        return self.forward(batch).item()

    def device_step(self, batch):
        return torch_seconds(lambda: self.train(batch).item())

    def device_parts(self, batch):
        forward = torch_seconds(lambda: self.forward(batch))
        return forward, torch_seconds(lambda: self.both(batch)) - forward

    def device_peak(self, batch):
        self.train(batch)
        return torch_peak(lambda: self.train(batch))


class Fair(OnGpu, torch_net.Fair):
    pass


class PaperLoop(OnGpu, torch_net.PaperLoop):
    pass


class Graphed(Fair):
    """The fair dense loop, recorded once as a CUDA graph and replayed: no Python and no launches between its kernels.

    Forward, forward and backward, and the whole step are a graph each; backward is the second less the first. They run
    one at a time and read nothing of each other's, so that they share one pool of memory.
    """

    def prepare(self, events):
        batch = super().prepare(events)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE, fused=True, capturable=True)
        first = [parameter.detach().clone() for parameter in self.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.train(batch)
        torch.cuda.current_stream().wait_stream(side)
        self.graphs, self.losses, pool = {}, {}, torch.cuda.graph_pool_handle()
        for name, work in {"forward": self.forward, "both": self.both, "step": self.train}.items():
            self.optimizer.zero_grad(set_to_none=True)
            graph = self.graphs[name] = torch.cuda.CUDAGraph()

            def capture(graph=graph, name=name, work=work):
                with torch.cuda.graph(graph, pool=pool):
                    self.losses[name] = work(batch).detach()  # else it would keep its whole tape in the pool

            self.peak = torch_peak(capture)  # the last one's, of the whole step, stays
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), first, strict=True):
                parameter.copy_(value)  # as the others start, so that losses can be compared
        return batch

    def replayed(self, name):
        self.graphs[name].replay()
        return self.losses[name].item()

    def device_loss(self, batch):
        return self.replayed("forward")

    def device_step(self, batch):
        return torch_seconds(lambda: self.replayed("step"))

    def device_parts(self, batch):
        forward = torch_seconds(self.graphs["forward"].replay)
        return forward, torch_seconds(self.graphs["both"].replay) - forward

    def device_peak(self, batch):
        return self.peak


class Compiled(Graphed):
    """The same, with the operations of a step fused by `torch.compile`.

    The compiler gets one step and not the loop, which it would unroll over all steps; the graph joins the steps.
    """

    def make(self, weights):
        super().make(weights)
        self.lif = torch.compile(lif_step)

    def hidden(self, drive):
        v = s = torch.zeros_like(drive[0])
        spikes = []
        for x_t in drive:
            v, s = self.lif(x_t, v, s.detach(), self.shape.beta, self.shape.slope)
            spikes.append(s)
        return torch.stack(spikes)


def lif_step(x_t, v, s, beta, slope):
    """One step of LIF neurons as in `torch_net.Fair`."""
    v = torch.add(x_t - s, v, alpha=beta)
    return v, torch_net.FastSigmoid.apply(v - 1, slope)


def torch_seconds(run):
    """Time of run() after one that is not counted, from device events, or by the clock on the CPU."""
    run()
    if DEVICE == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def torch_peak(run):
    """Bytes that PyTorch's allocator holds at most during run(), above what it holds before; 0 on the CPU."""
    if DEVICE == "cpu":
        run()
        return 0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
