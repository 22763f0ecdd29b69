"""Objects on a sphere: energies and entropies by their laws, convergence up to an ELR of one, errors."""

import numpy as np
import pytest

from onsphere.dynamics import temperature_interval
from onsphere.dynamics.toys import simulate_objects
from onsphere.dynamics.toys.objects import OVER, THRESHOLD, UNDER, objects_steps

TILTED = [[1.0, 0.2, 0.0, 0.1], [0.1, 1.0, 0.3, 0.0], [0.0, 0.4, 1.0, 0.2], [0.5, 0.0, 0.1, 1.0], [1.0, -1.0, 0.5, 0.2]]


@pytest.mark.parametrize("objects", [UNDER, TILTED], ids=["three in three dimensions", "five in four"])
def test_small_elrs_follow_the_laws_where_noise_stays(objects):
    run = simulate_objects([0.03, 0.06], objects=objects, copies=256, entropy_points=2048)
    a = np.array(objects) / np.linalg.norm(objects, axis=1, keepdims=True)
    assert run.least == pytest.approx(np.linalg.eigvalsh(a.T @ a / len(a))[0]) and not run.over
    # Of first order in the ELR: what is above the least loss within a tenth, the entropy within a tenth of a nat.
    assert run.energy - run.least == pytest.approx(run.predicted_energy - run.least, rel=0.1)
    assert run.entropy == pytest.approx(run.predicted_entropy, abs=0.15)
    assert np.diff(run.entropy)[0] == pytest.approx((run.dimension - 1) / 2 * np.log(2), abs=0.15)
    assert (run.converged == 0).all()


def test_the_laws_are_those_of_a_linear_simulation_of_the_minimum():
    """Independent of the closed forms: the covariance as the fixed point of the averaged linear step."""
    a = np.array(UNDER)
    values, vectors = np.linalg.eigh(a.T @ a / 3)
    v, basis = vectors[:, 0], vectors[:, 1:]
    elr, hessian = 1e-3, 2 * (basis.T @ (a.T @ a / 3) @ basis - values[0] * np.eye(2))
    gradients = 2 * (a @ v)[:, None] * (a @ basis)
    noise, covariance = gradients.T @ gradients / 3, np.zeros((2, 2))
    step = np.eye(2) - elr * hessian
    for _ in range(30_000):
        covariance = step @ covariance @ step.T + elr**2 * noise
    run = simulate_objects([elr * 10], copies=2, entropy_points=8)
    trace = np.trace(noise)
    assert run.predicted_energy[0] == pytest.approx(values[0] + 10 * elr * trace / 4, rel=1e-9)
    assert np.trace(hessian @ covariance) / 2 == pytest.approx(elr * trace / 4, rel=2e-3)
    law = run.predicted_entropy[0] + np.log(1 / 10)
    assert np.linalg.slogdet(2 * np.pi * np.e * covariance)[1] / 2 + np.log(2) == pytest.approx(law, abs=2e-3)
    assert run.temperature[0] == pytest.approx(10 * elr * trace / 4)


def test_every_state_has_the_least_free_energy_at_the_temperature_of_the_law():
    run = simulate_objects([0.02, 0.04, 0.08, 0.16], copies=256, entropy_points=2048)
    found = temperature_interval(run.energy, run.entropy)
    assert found.exists.all()
    assert ((found.low <= run.temperature) & (run.temperature <= found.high)).all()
    assert (np.diff(run.signal_to_noise) > 0).all() and run.signal_to_noise[0] < 0.15


def test_without_noise_at_the_minimum_training_converges_up_to_an_elr_of_one():
    run = simulate_objects([0.05, 0.5, 0.95, THRESHOLD, 1.05, 3.0], objects=OVER, copies=32, entropy_points=64)
    assert run.over and run.least == 0 and (run.temperature == 0).all()
    assert run.converged.tolist() == [1, 1, 1, 0, 0, 0]
    assert (run.energy[:3] < 1e-12).all() and (run.energy[3:] > 1e-6).all()
    assert np.isnan(run.entropy[:3]).all() and np.isfinite(run.entropy[5])
    assert np.isnan(run.signal_to_noise[:3]).all() and (run.signal_to_noise[4:] > 0.5).all()


def test_the_seed_decides_and_lengths_do_not_count():
    one = simulate_objects(0.3, copies=8, entropy_points=16, seed=3)
    again = simulate_objects(0.3, objects=5 * np.array(UNDER), copies=8, entropy_points=16, seed=3)
    assert one.energy[0] == pytest.approx(again.energy[0], rel=1e-6) and one.points.shape == (1, 16, 3)
    assert simulate_objects(0.3, copies=8, entropy_points=16, seed=4).energy[0] != one.energy[0]
    assert "under-parameterised" in repr(one) and one.to_dict()["elr"] == [0.3]
    assert one.to_frame().shape[0] == 1
    assert sum(objects_steps(0.3))[0] == one.burn_in[0] + one.steps[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objects": [[1.0, 0.0]]}, "at least two vectors"),
        ({"objects": [1.0, 0.0]}, "at least two vectors"),
        ({"objects": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]}, "no direction"),
        ({"objects": np.eye(3)}, "more than one direction"),
        ({"objects": [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]}, "more than one direction"),
        ({"elr": 1e-5}, "more than 1,000,000"),
        ({"elr": -1.0}, "elr"),
        ({"copies": 1}, "copies"),
        ({"entropy_points": 3}, "entropy_points"),
    ],
)
def test_what_cannot_be_simulated_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        simulate_objects(**{"elr": 0.1, "copies": 2, "entropy_points": 8} | given)
