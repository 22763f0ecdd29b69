"""The public names are exactly these; importing the package loads torch and numpy at most."""

import json
import subprocess
import sys

import pytest

import onsphere
import onsphere.lab

CORE = {
    *("Sphere", "SphereSGD", "SymmetryError", "__version__"),
    *("keep_on_sphere", "make_scale_invariant", "release", "sphere_groups"),
    *("Symmetries", "find_symmetries", "noether_residual"),
    "Monitor",
}
LAB = {
    *("monitor_page", "write_readings"),
    *("InputError", "Interrupted", "Run", "map_regimes", "resume_regimes", "symmetries_page"),
    *("toy_periods", "toy_regimes", "toy_thermo", "train_periods", "resume_periods"),
    *("map_spectrum", "resume_spectrum", "drop_elr", "resume_drop", "map_zones", "resume_zones"),
    *("stabilise", "resume_stabilise", "compare_conventional", "resume_conventional"),
    *("compare_schedules", "resume_schedules", "split_budget", "resume_split"),
    *("save_ensemble", "load_ensemble"),
}


@pytest.mark.parametrize(("module", "names"), [(onsphere, CORE), (onsphere.lab, LAB)], ids=["onsphere", "onsphere.lab"])
def test_exported_names(module, names):
    assert set(module.__all__) == names
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'bananas'"):
        _ = module.bananas


USES = [
    "onsphere",
    "onsphere.SphereSGD; onsphere.sphere_groups; onsphere.make_scale_invariant",
    "onsphere.dynamics",
    "onsphere.Monitor",
    "onsphere.curvature.top_eigenvalues",
    "onsphere.landscape.barrier",
    "onsphere.ensembles.Ensemble",
]


@pytest.fixture(scope="module")
def loaded():
    """What is loaded on top of torch and numpy after each use, one use after another in one fresh process."""
    code = "import json, sys, torch, numpy; before = set(sys.modules); import onsphere; loaded = []\n"
    code += "for use in sys.argv[1:]: exec(use); loaded.append(sorted(set(sys.modules) - before))\n"
    code += "print(json.dumps(loaded))"
    output = subprocess.run([sys.executable, "-c", code, *USES], capture_output=True, text=True, check=True).stdout
    return dict(zip(USES, json.loads(output), strict=True))


@pytest.mark.parametrize("use", USES)
def test_the_core_loads_torch_and_numpy_alone(use, loaded):
    names = {name.split(".")[0] for name in loaded[use]} - set(sys.stdlib_module_names)
    assert "onsphere" in names
    assert names <= {"onsphere", "torch", "numpy", "sympy", "mpmath", "networkx", "jinja2", "markupsafe"}
    assert "onsphere.lab" not in loaded[use]
