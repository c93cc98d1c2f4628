"""The same network in nsim and in other frameworks: LIF layers, a summed leaky readout, cross-entropy, Adam.

Each module has classes with the constructor `(shape, weights, threads, **options)`, and

    prepare(events) -> batch        the framework's own form of a batch; not part of a step
    forward(batch) -> loss          keeps what backward needs
    backward(loss)
    step(batch) -> float            forward, backward, Adam; the loss
    gradients(batch) -> list        dL/dW [n_pre, n_post] of each layer, float64; no update
    versions                        a line for the report

Importing this package imports no framework.
"""

# name in the tables: (module:Class, options)
PEERS = {
    "nsim": ("nsim_net:Net", {"band": 0.2}),
    "nsim band=None": ("nsim_net:Net", {"band": None}),
    "torch": ("torch_net:Fair", {}),
    "torch, paper's loop": ("torch_net:PaperLoop", {}),
    "JAX scan": ("jax_net:Net", {}),
    "JAX scan, drive inside": ("jax_net:Net", {"hoist": False, "unroll": 4}),
    "snnTorch": ("snntorch_net:Net", {}),
    "Norse": ("norse_net:Net", {}),
    "SpikingJelly": ("spikingjelly_net:Net", {}),
}
