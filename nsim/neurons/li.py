"""Leaky integrator, the readout without spikes."""

from nsim.errors import ParameterError
from nsim.neurons.base import Equations, Neuron, TimeConstant

REDUCTIONS = (None, "sum", "mean", "max", "last")


class LI(Neuron):
    """Leaky integrator: o[t] = beta o[t-1] + (1 - beta) x[t], beta = exp(-dt / tau_mem).

    Parameters
    ----------
    tau_mem : float or array [N], seconds
        Membrane time constant, > 0.
    reduce : None, "sum", "mean", "max" or "last"
        None gives o [B, T, N]; the others reduce over the true steps of each sample (`Spikes.lengths`) inside the
        kernel, which then keeps nothing of size T, and give [B, N].
    v_init : float or array [N], units of the drive
        o before the first step.
    learn : tuple of parameter names
        Parameters to train.

    Source: Perez-Nieves & Goodman 2021, section 3.1; their sum over time on SHD, maximum elsewhere.
    """

    states = ("v",)
    parameters = (TimeConstant("tau_mem"),)
    spiking = False
    apart = Neuron.apart | {"reduce"}

    def __init__(self, tau_mem=10e-3, *, reduce=None, v_init=0.0, learn=()):
        super().__init__({"tau_mem": tau_mem}, v_init=v_init, learn=learn)
        if reduce not in REDUCTIONS:
            raise ParameterError(f'reduce = {reduce!r}: expected None, "sum", "mean", "max" or "last"')
        self.reduce = reduce

    def options(self):
        return super().options() | {"reduce": self.reduce}

    def equations(self, one):
        def step(state, s, x, p):
            (v,), (beta,) = state, p
            return (beta * v + (one - beta) * x,)

        def step_adjoint(d, state, s, x, p):
            (dv,), (v,), (beta,) = d, state, p
            return (beta * dv,), one - one, (one - beta) * dv, ((v - x) * dv,)

        def potential(state, p):
            return state[0]

        def potential_adjoint(du, state, p):
            return (du,), (one - one,)

        return Equations.of(step, step_adjoint, potential, potential_adjoint)
