"""The theory as functions: exact laws of one step, equilibria, jumps, equivalences, toys, thermodynamics.

Everything takes numbers, numpy arrays or torch tensors, broadcasts, and returns floats, float64 arrays or
frozen dataclasses of them. Angles are in radians, times in steps, log is the natural logarithm. ``radius`` is the
norm of scale-invariant weights, ``gradient_norm`` that of the loss gradient at these weights,
``effective_gradient_norm`` their product: the gradient's norm at the unit sphere.
"""

from onsphere.dynamics import toys
from onsphere.dynamics.detect import ZigzagDetector, zigzag_jumps
from onsphere.dynamics.entropy import (
    EntropyEstimate,
    cap_log_area,
    euclidean_entropy,
    graph_entropy,
    sphere_entropy,
    sphere_log_area,
)
from onsphere.dynamics.entropy_bound import EntropyBound, entropy_bound
from onsphere.dynamics.equilibria import Equilibrium, equilibrium, intrinsic_lr, steps_to_equilibrium
from onsphere.dynamics.equivalence import (
    ExponentialSchedule,
    Schedule,
    angle_from_elr,
    elr_from_angle,
    elr_schedule,
    exponential_schedule,
    lr_schedule,
)
from onsphere.dynamics.free_energy import (
    GasState,
    TemperatureInterval,
    free_energy_table,
    gas_state,
    temperature_interval,
)
from onsphere.dynamics.generalised import (
    GeneralisedEquilibrium,
    NormBand,
    averaged_law_residual,
    generalised_equilibrium,
    norm_band,
)
from onsphere.dynamics.jumps import (
    JumpTimes,
    cosine_distance,
    default_delta,
    elr_drop,
    is_jump,
    jump_possible,
    jump_threshold,
    jump_time_bounds,
    recovery_steps,
)
from onsphere.dynamics.maxwell import MaxwellTest, maxwell_residuals
from onsphere.dynamics.steps import (
    Step,
    effective_elr,
    effective_step,
    elr_after,
    group_elrs,
    sgd_step,
    shares_after,
    sphere_elr,
    total_elr,
    update_step,
)
from onsphere.dynamics.thermodynamics import growth_pressure, pressure, stationary_radius, temperature, total_entropy
from onsphere.dynamics.timescales import Timescale, decay_for_angle, timescale
from onsphere.dynamics.von_mises_fisher import vmf_energy, vmf_entropy, vmf_sample

__all__ = [
    "EntropyBound",
    "EntropyEstimate",
    "Equilibrium",
    "ExponentialSchedule",
    "GasState",
    "GeneralisedEquilibrium",
    "JumpTimes",
    "MaxwellTest",
    "NormBand",
    "Schedule",
    "Step",
    "TemperatureInterval",
    "Timescale",
    "ZigzagDetector",
    "angle_from_elr",
    "averaged_law_residual",
    "cap_log_area",
    "cosine_distance",
    "decay_for_angle",
    "default_delta",
    "effective_elr",
    "effective_step",
    "elr_after",
    "elr_drop",
    "elr_from_angle",
    "elr_schedule",
    "entropy_bound",
    "equilibrium",
    "euclidean_entropy",
    "exponential_schedule",
    "free_energy_table",
    "gas_state",
    "generalised_equilibrium",
    "graph_entropy",
    "group_elrs",
    "growth_pressure",
    "intrinsic_lr",
    "is_jump",
    "jump_possible",
    "jump_threshold",
    "jump_time_bounds",
    "lr_schedule",
    "maxwell_residuals",
    "norm_band",
    "pressure",
    "recovery_steps",
    "sgd_step",
    "shares_after",
    "sphere_elr",
    "sphere_entropy",
    "sphere_log_area",
    "stationary_radius",
    "steps_to_equilibrium",
    "temperature",
    "temperature_interval",
    "timescale",
    "total_elr",
    "total_entropy",
    "toys",
    "update_step",
    "vmf_energy",
    "vmf_entropy",
    "vmf_sample",
    "zigzag_jumps",
]
