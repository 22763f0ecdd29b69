"""The thermodynamics of networks: trained as the formulas say, judged right on states that obey the laws exactly."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onsphere.lab import InputError, measure_thermo
from onsphere.lab.data import drawn_indices
from onsphere.lab.experiments.thermo.analyse import energy_map, powers, relation, row_of, settings_of, temperatures
from onsphere.lab.experiments.thermo.measure import Measured, Noise
from onsphere.lab.experiments.thermo.result import EnergyMap, Window
from onsphere.lab.experiments.thermo.run import prepare
from onsphere.lab.experiments.thermo.spec import ThermoSpec
from onsphere.lab.intervals import Interval
from onsphere.lab.population import Copy, Engine, Plan, Readings
from onsphere.lab.progress import Progress

TINY = {
    **{"train": 40, "test": 30, "widths": (4,), "elrs": (0.02, 0.05), "lrs": (0.2,), "weight_decays": (0.1, 0.2)},
    **{"seeds": 2, "steps": 48, "batch_size": 10, "samples": 16, "gradients": 3, "evaluations": 1},
    **{"workers": 1, "mode": "loop", "chunk": 2, "compiled": "no", "dtype": "float64"},
}


def squares(tensors):
    return sum(float((t.detach() ** 2).sum()) for t in tensors)


def plain(problem, copy, protocol, steps):
    """A user's own loop, from the formulas: weights, and norm, loss, squared gradient of every step."""
    model = problem.build(copy.seed).double().train()
    weights = [p for p in model.parameters() if p.requires_grad]
    if protocol == "sphere":
        norm = math.sqrt(squares(weights))
        for w in weights:
            w.data /= norm
    seen = []
    for rows in problem.batches(copy.seed, 0, steps):
        loss = F.cross_entropy(model(problem.data.x_train[rows].double()), problem.data.y_train[rows])
        grads = torch.autograd.grad(loss, weights)
        norm2 = squares(weights)
        lr = copy.lr if protocol == "fixed_lr" else copy.lr * norm2
        seen.append((norm2, loss.item(), squares(grads)))
        for w, g in zip(weights, grads, strict=True):
            w.data -= lr * (g + copy.weight_decay * w.data)
        if protocol == "sphere":
            norm = math.sqrt(squares(weights))
            for w in weights:
                w.data /= norm
    return weights, np.array(seen)


@pytest.mark.parametrize(
    ("protocol", "copy"),
    [("fixed_elr", Copy(1, 0.02, 0.1)), ("fixed_lr", Copy(1, 0.2, 0.05)), ("sphere", Copy(1, 0.02))],
)
@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_every_protocol_trains_as_a_plain_loop_does(protocol, copy, mode):
    problem = prepare(ThermoSpec(**TINY), "mlp", "digits", Progress())[protocol]
    engine = Engine(problem, (copy,), Plan(mode, 1))
    ring = torch.empty((40, 1, engine.columns), dtype=torch.float64)
    state = engine.advance(engine.initial_state(), 40, ring)
    weights, seen = plain(problem, copy, protocol, 40)
    for mine, other in zip(state.params, weights, strict=True):
        assert torch.allclose(mine[0], other.detach(), rtol=1e-9, atol=1e-11)
    readings = Readings(problem.trained, 0, ring.numpy())
    assert readings.moment("norm2").sum(-1)[:, 0] == pytest.approx(seen[:, 0], rel=1e-9)
    assert readings.loss[:, 0] == pytest.approx(seen[:, 1], rel=1e-9)
    assert readings.moment("gradient2").sum(-1)[:, 0] == pytest.approx(seen[:, 2], rel=1e-7)


def test_independent_batches_are_uniform_and_the_same_wherever_they_begin():
    whole = drawn_indices(7, 50, (3, 1), 0, 200)
    assert torch.equal(drawn_indices(7, 50, (3, 1), 60, 80), whole[60:80])
    assert not torch.equal(drawn_indices(7, 50, (3, 2), 0, 200), whole)
    counts = np.bincount(whole.ravel(), minlength=7)
    assert len(counts) == 7 and ((counts - 10000 / 7) ** 2 / (10000 / 7)).sum() < 22.5  # chi², 6 degrees, 1e-3
    repeated = sum(len(set(row.tolist())) < 7 for row in drawn_indices(7, 7, 0, 0, 50))
    assert repeated > 40  # with replacement: a batch of all seven is rare
    with pytest.raises(ValueError, match="batch_size"):
        drawn_indices(7, 0, 0, 0, 1)


D, TRACE, SIGNAL = 301, 40.0, 9.0


def state(protocol, rate, decay=0.0, seed=0, *, heat=None, energy=None, entropy=None, shift=0.0):
    """A run that obeys the laws exactly, of a loss whose energy is (d - 1) T / 2 and entropy (d - 1) / 2 ln T."""
    moment = TRACE + SIGNAL
    if protocol == "fixed_lr":
        square = math.sqrt(rate * moment / (2 * decay))
        elr = rate / square
    else:
        elr, square = rate, rate * moment / (2 * decay) if decay else 1.0
    heat = elr * moment / (2 * (D - 1)) if heat is None else heat
    window = Window(
        end=100,
        energy=((D - 1) * heat / 2 if energy is None else energy) + shift,
        radius=math.sqrt(square),
        log_radius=math.log(square) / 2,
        elr=elr,
        moment=moment,
        pressure=elr * moment / (2 * square),
        entropy=((D - 1) / 2 * math.log(heat) if entropy is None else entropy) + shift,
        bound=(D - 1) / 2 * math.log(heat),
        effective_dimension=200.0,
        growth=0.0,
    )
    return row_of(protocol, Copy(seed, rate, decay), Measured([window], Noise(TRACE, SIGNAL), 0.0, D), 0.25)


def grid(protocol):
    rates = (0.01, 0.02, 0.04) if protocol == "fixed_elr" else (0.1, 0.2, 0.4)
    return [state(protocol, rate, wd, seed, shift=seed) for rate in rates for wd in (0.1, 0.2, 0.4) for seed in (0, 1)]


@pytest.mark.parametrize("protocol", ["fixed_elr", "fixed_lr"])
def test_laws_relations_and_free_energies_hold_of_an_ideal_gas(protocol):
    rows = grid(protocol)
    assert all(row.ratio == pytest.approx(1) and row.gas_law == pytest.approx(0, abs=1e-12) for row in rows)
    found = relation(protocol, rows)
    expected = {"fixed_elr": -(D - 1) / 2, "fixed_lr": (D - 1) / 2}[protocol]
    assert found.expected == expected
    assert found.slope.mean == pytest.approx(expected) == pytest.approx(found.bound_slope.mean)
    assert found.fit.mean == pytest.approx(1)
    whole = energy_map(protocol, rows)
    assert whole.potential == "G" and whole.counts() == (72, 0, 0)
    # at one temperature what is left is (d - 1) (x² - 1 - 2 ln x) / 2, x the ratio of norms
    ratio2 = 0.5 if protocol == "fixed_elr" else None
    if ratio2:
        assert whole.excess[0][1] == pytest.approx((D - 1) / 2 * (ratio2 - 1 - math.log(ratio2)))
    settings = settings_of(rows)
    assert len(settings) == 9 and settings[0].energy.mean == pytest.approx(rows[0].energy + 0.5)


def test_the_pressure_of_a_sphere_is_compared_with_its_law():
    row = state("sphere", 0.02)
    assert row.ratio == pytest.approx(1) and row.gas_law == pytest.approx(0, abs=1e-12)
    assert row.predicted == pytest.approx(0.02 * (TRACE + SIGNAL) / 2)
    assert row.raw_temperature == pytest.approx(row.temperature * TRACE / (TRACE + SIGNAL))
    assert row.signal_to_noise == pytest.approx(math.sqrt(SIGNAL / TRACE))


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_temperatures_are_found_between_their_slopes_with_their_power(power):
    elrs = [1e-3 * 1.5**i for i in range(6)]
    rows = [state("under", elr, seed=s, heat=elr**power, shift=s) for elr in elrs for s in (0, 1, 2)]
    found = temperatures("under", rows)
    assert [one.elr for one in found] == elrs
    assert all(one.low < one.elr**power < one.high and one.exists == 3 and one.stationary for one in found)
    assert found[0].low == 0 and math.isinf(found[-1].high)
    slopes, noise = powers("under", rows)
    assert (slopes.points, noise.points) == (4, 6)
    assert slopes.power.mean == pytest.approx(power, abs=1e-6)
    assert noise.power.mean == pytest.approx(1)  # the law of the noise, whatever the energies are


def test_a_comparison_counts_where_both_estimates_agree():
    one, signs = Interval(1, 1, 0.5, 1.5), ([[0, 1], [-1, 0]], [[0, 1], [-1, 0]], [[0, 2], [-0.5, 0]])
    bounds = [[0, -1], [-1, 0]]
    found = EnergyMap("sphere", "F", [(1e-2, 0.0), (2e-2, 0.0)], *signs, bounds)
    assert found.counts() == (0, 1, 1) and one.mean == 1


def test_what_is_not_known_is_not_judged():
    rows = [state("sphere", elr, seed=s, entropy=math.nan) for elr in (0.01, 0.02, 0.04) for s in (0, 1)]
    assert energy_map("sphere", rows).counts() == (0, 0, 6)
    assert all(math.isnan(one.low) for one in temperatures("sphere", rows))


@pytest.fixture(scope="module")
def energies(tmp_path_factory):
    fields = TINY | {"study": "free-energy", "elrs": (0.01, 0.03, 0.1), "over_widths": (12,), "windows": 2}
    return measure_thermo(**fields, out=tmp_path_factory.mktemp("thermo") / "run")


def test_free_energies_are_followed_for_two_networks(energies):
    assert [len([row for row in energies.rows if row.population == name]) for name in ("under", "over")] == [6, 6]
    assert {row.dimension for row in energies.rows} == {64 * 4, 64 * 12}
    assert len(energies.temperatures) == 6 and len(energies.powers) == 4 and len(energies.curves) == 12
    assert {one.end for one in energies.curves} == {24, 48} and energies.relations == []
    page = energies.report.read_text(encoding="utf-8")
    for chart in ("temperature-chart", "curves-under-chart", "curves-over-chart", "map-under-chart", "map-over-chart"):
        assert f'id="{chart}"' in page
    assert json.loads((energies.run / "result.json").read_text(encoding="utf-8"))["temperatures"][0]["low"] is not None


def test_weights_are_removed_once_they_are_measured(energies):
    assert not list(energies.run.glob("shards/*/snapshots"))
    assert len(list(energies.run.glob("measured/*.json"))) == 12


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"samples": 40}, "samples"),
        ({"lrs": (5.0,), "weight_decays": (0.3,)}, "weight-decays"),
        ({"study": "free-energy", "steps": 64, "elrs": (0.1, 0.2)}, "elrs"),
        ({"study": "free-energy", "steps": 64, "elrs": (0.1, 0.2, 0.3), "model": "convnet"}, "model"),
        ({"protocols": ("sphere", "sphere")}, "protocols"),
        ({"seeds": 500}, "seeds"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, said, tmp_path):
    with pytest.raises(InputError, match=said):
        measure_thermo(**(TINY | given), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
