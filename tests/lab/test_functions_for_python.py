"""What somebody who calls the experiments from Python can see of them: their fields, what resumes them, a wrong run."""

import inspect
import json
import pickle
import shutil

import pytest

import onsphere.lab
from onsphere.lab import InputError, Run
from onsphere.lab.command import rewrite
from onsphere.lab.engine_file import read_execution
from onsphere.lab.experiments.toy_thermo.result import ToyThermoResult
from onsphere.lab.registry import ENTRIES
from onsphere.lab.store.files import write_json

CALLED = [entry for entry in ENTRIES if entry.functions]
RESUMED = [name for entry in CALLED for name in entry.functions[1:]]


@pytest.mark.parametrize("entry", CALLED, ids=[entry.functions[0] for entry in CALLED])
def test_a_signature_shows_every_field_with_its_default(entry):
    function = getattr(onsphere.lab, entry.functions[0])
    shown = inspect.signature(function).parameters
    fields = entry.options.model_fields
    assert set(shown) == {*fields, "out", "progress", "stop"}
    for name in set(fields) - {"model", "data"}:
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert shown[name].default == fields[name].default and "FieldInfo" not in str(shown[name])
    assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize("name", RESUMED)
def test_what_resumes_a_run_can_be_sent_to_another_process(name):
    function = getattr(onsphere.lab, name)
    assert pickle.loads(pickle.dumps(function)) == function


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A finished run of a toy."""
    out = tmp_path_factory.mktemp("toy") / "run"
    return onsphere.lab.toy_regimes(elrs=[0.1, 0.2], steps=200, seeds=2, backend="numpy", out=out)


def test_a_run_of_another_experiment_is_refused_by_its_name(toy):
    run = Run.open(toy.run)
    expected = "is a run of onsphere toy regimes, not of onsphere regimes; continue or show it with: onsphere resume"
    with pytest.raises(InputError, match=expected):
        onsphere.lab.resume_regimes(run)
    with pytest.raises(InputError, match="is a run of onsphere toy regimes, not of onsphere toy thermo"):
        ToyThermoResult.load(run)


def test_a_toy_says_what_it_found(toy):
    first, second, last = repr(toy).splitlines()
    assert first.startswith("ToyRegimesResult: 3 pairs, 2 ELRs x 2 seeds, ")
    assert second.startswith(
        "  threshold 1/A = 0.1429; 1 of 1 ELRs below it converged; losses of the 1 above it within"
    )
    assert last == f"  page: {toy.report}"


def test_a_result_without_digests_that_cannot_be_shown_is_said_to_be_damaged(toy, tmp_path):
    run = Run(shutil.copytree(toy.run, tmp_path / "run"))
    (run.folder / "digests.json").unlink()
    values = json.loads(run.result_path.read_text())
    run.result_path.write_text(json.dumps(values | {"rows": []}))
    with pytest.raises(InputError, match=r"result\.json is damaged: it holds no result that can be shown \(rows: "):
        rewrite(run)
    del values["rows"][1]["elr"]
    run.result_path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"it holds no result that can be shown \(rows\.1\.elr: Field required\)"):
        rewrite(run)
    with pytest.raises(InputError, match=r"\(StopIteration:\)"), run.reading():
        next(iter(()))


def test_an_engine_file_that_lacks_something_says_what(tmp_path):
    write_json(tmp_path / "engine.json", {"plan": {"mode": "loop", "chunk": 2}, "workers": 1, "data": "x"})
    with pytest.raises(InputError, match=r"it holds no plan \(timings: Field required\); put the file back"):
        read_execution(Run(tmp_path))
