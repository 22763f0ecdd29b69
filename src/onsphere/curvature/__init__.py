"""Curvature of the loss of networks with normalisation layers: what training sees, not what evaluation sees.

Hessian and Gauss-Newton products that are safe for batch norm in training mode, in the whole space or on the sphere of
scale-invariant weights; from them eigenvalues with error bounds, traces, spectral densities; and gradient noise. Every
function leaves the model, its buffers, gradients, flags and the random state as they were.
"""

# All at once and not when first used: a submodule and a function are both called trace.
from onsphere.curvature.critical import CriticalSharpness, critical_sharpness
from onsphere.curvature.density import SpectralDensity, spectral_density
from onsphere.curvature.eigenvalues import Eigenvalues, SharpnessTracker, operator_eigenvalues, top_eigenvalues
from onsphere.curvature.functional import Functional
from onsphere.curvature.lanczos import Krylov, Ritz, lanczos
from onsphere.curvature.noise import GradientNoise, gradient_noise
from onsphere.curvature.operators import HessianOperator, hessian_operator
from onsphere.curvature.trace import Estimate, trace
from onsphere.functional.selection import select_parameters

__all__ = [
    "CriticalSharpness",
    "Eigenvalues",
    "Estimate",
    "Functional",
    "GradientNoise",
    "HessianOperator",
    "Krylov",
    "Ritz",
    "SharpnessTracker",
    "SpectralDensity",
    "critical_sharpness",
    "gradient_noise",
    "hessian_operator",
    "lanczos",
    "operator_eigenvalues",
    "select_parameters",
    "spectral_density",
    "top_eigenvalues",
    "trace",
]
