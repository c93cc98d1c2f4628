"""Leaky integrate-and-fire neuron with an adaptive threshold."""

from nsim.neurons.base import Equations, Parameter, SpikingNeuron, TimeConstant


class ALIF(SpikingNeuron):
    """Adaptive leaky integrate-and-fire: each spike raises the threshold for a while.

        a[t] = rho a[t-1] + (1 - rho) s[t-1]
        v[t] = beta v[t-1] + x[t] - theta s[t-1]          reset="subtract": theta, not the raised threshold
        v[t] = beta v[t-1] (1 - s[t-1]) + x[t]            reset="zero"
        s[t] = 1 if v[t] > theta + b a[t] else 0
        beta = exp(-dt / tau_mem), rho = exp(-dt / tau_adapt), b = adaptation

    Parameters
    ----------
    tau_mem, tau_adapt : float or array [N], seconds
        Time constants of membrane and adaptation, > 0.
    adaptation : float or array [N], units of the drive
        b, the rise of the threshold at a = 1.
    threshold : float or array [N], units of the drive
        theta, the threshold at rest.
    reset, surrogate, band, detach_reset, v_init, learn
        See `nsim.neurons.base.SpikingNeuron`. The gradient through a is always kept.

    Source: Bellec et al. 2018 (LSNN), equations 1-3, in which the drive has a factor (1 - beta) and the reset subtracts
    the raised threshold.
    """

    states = ("v", "a")
    parameters = (TimeConstant("tau_mem"), TimeConstant("tau_adapt"), Parameter("adaptation"), Parameter("threshold"))

    def __init__(self, tau_mem=10e-3, tau_adapt=100e-3, *, adaptation=1.8, threshold=1.0, **options):
        values = {"tau_mem": tau_mem, "tau_adapt": tau_adapt, "adaptation": adaptation, "threshold": threshold}
        super().__init__(values, **options)

    def equations(self, one):
        to_zero = self.reset == "zero"
        kept = one * (not self.detach_reset)

        def step(state, s, x, p):
            (v, a), (beta, rho, _, theta) = state, p
            a = rho * a + (one - rho) * s
            if to_zero:
                return beta * v * (one - s) + x, a
            return beta * v + x - theta * s, a

        def step_adjoint(d, state, s, x, p):
            (dv, da), (v, a), (beta, rho, _, theta) = d, state, p
            drho = (a - s) * da
            if to_zero:
                return (
                    (beta * (one - s) * dv, rho * da),
                    (one - rho) * da - kept * beta * v * dv,
                    dv,
                    (v * (one - s) * dv, drho, one - one, one - one),
                )
            return (
                (beta * dv, rho * da),
                (one - rho) * da - kept * theta * dv,
                dv,
                (v * dv, drho, one - one, -s * dv),
            )

        def potential(state, p):
            (v, a), (_, _, b, theta) = state, p
            return v - theta - b * a

        def potential_adjoint(du, state, p):
            (_, a), (_, _, b, _) = state, p
            return (du, -b * du), (one - one, one - one, -a * du, -du)

        return Equations.of(step, step_adjoint, potential, potential_adjoint)
