"""One safetensors file for an ensemble: round trips, what the header holds, damaged files."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from onsphere.ensembles import Ensemble
from onsphere.lab.ensemble_files import EnsembleFileError, ensemble_metadata, load_ensemble, save_ensemble
from onsphere.lab.models import build

OPTIONS = {"input_shape": [1, 4, 4], "classes": 3, "widths": [5]}
METADATA = {"model": "mlp", "options": OPTIONS, "nll": 0.25, "failed": [4]}


def small(input_shape, classes):
    """A model of one's own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], classes))


@pytest.fixture
def networks():
    found = [build("mlp", **OPTIONS, seed=s) for s in range(3)]
    for n in found:
        n(torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    return found


@pytest.fixture
def x():
    return torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_round_trip_of_members_and_of_the_ensemble(networks, x, tmp_path):
    ensemble = Ensemble.from_members(networks)
    for i, given in enumerate((networks, ensemble)):
        path = tmp_path / f"{i}.safetensors"
        header = save_ensemble(path, given, METADATA)
        assert header == ensemble_metadata(path) == {**METADATA, "members": 3, "format": 1}
        loaded = load_ensemble(path)
        assert torch.equal(loaded(x), ensemble(x))
        assert not loaded.stacked.training
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors"]


def test_data_types_are_kept(networks, x, tmp_path):
    save_ensemble(tmp_path / "e.safetensors", [n.double() for n in networks], METADATA)
    assert load_ensemble(str(tmp_path / "e.safetensors"))(x.double()).dtype == torch.float64


def test_a_model_of_ones_own_is_imported_only_when_the_caller_names_it(x, tmp_path):
    options = {"input_shape": [1, 4, 4], "classes": 3}
    name = f"{__name__}:small"
    networks = [small((1, 4, 4), 3) for _ in range(2)]
    path = tmp_path / "e.safetensors"
    save_ensemble(path, networks, {"model": name, "options": options})
    with pytest.raises(EnsembleFileError, match="code of your own; give it as model="):
        load_ensemble(path)
    expected = Ensemble.from_members(networks)(x)
    assert torch.equal(load_ensemble(path, model=small)(x), expected)
    assert torch.equal(load_ensemble(path, model=name)(x), expected)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"options": OPTIONS}, "'model' must be a name"),
        ({"model": "mlp"}, "'model' must be a name and 'options'"),
        ({"model": "mpl", "options": OPTIONS}, "no model named 'mpl'"),
        ({"model": "mlp", "options": {**OPTIONS, "depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"model": "mlp", "options": {**OPTIONS, "widths": [6]}}, "the tensors do not fit the model: tensor 'linear1"),
        ({**METADATA, "net": nn.Linear(1, 1)}, "metadata must be what JSON can hold"),
        ({**METADATA, "nll": float("nan")}, "metadata must be what JSON can hold"),
    ],
)
def test_metadata_that_would_not_load(networks, metadata, message, tmp_path):
    with pytest.raises(EnsembleFileError, match=message):
        save_ensemble(tmp_path / "e.safetensors", networks, metadata)
    assert not list(tmp_path.iterdir())


def test_folders_and_members_are_checked(networks, tmp_path):
    with pytest.raises(EnsembleFileError, match="there is no folder"):
        save_ensemble(tmp_path / "no" / "e.safetensors", networks, METADATA)
    with pytest.raises(ValueError, match="at least one"):
        save_ensemble(tmp_path / "e.safetensors", [], METADATA)


def test_files_that_are_no_ensembles(networks, tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.raises(EnsembleFileError, match="there is no such file"):
        load_ensemble(path)
    save_ensemble(path, networks, METADATA)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 20])
    with pytest.raises(EnsembleFileError, match="no whole safetensors file"):
        load_ensemble(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(EnsembleFileError, match="records no ensemble"):
        ensemble_metadata(path)
    for change, message in (({"format": 2}, "format 2 is newer"), ({"format": None}, "records no ensemble")):
        header = {**METADATA, "members": 3, "format": 1, **change}
        save_file({"a": torch.zeros(2)}, path, metadata={"onsphere.ensemble": json.dumps(header)})
        with pytest.raises(EnsembleFileError, match=message):
            load_ensemble(path)
    header = {**METADATA, "members": 3, "format": 1}
    save_file({"a": torch.zeros(2)}, path, metadata={"onsphere.ensemble": json.dumps(header)})
    with pytest.raises(EnsembleFileError, match=r"do not fit the model: no tensor 'linear1.weight'"):
        load_ensemble(path)
