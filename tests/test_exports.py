"""The public names are exactly these; importing the package loads torch and numpy at most."""

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


@pytest.mark.parametrize(
    "use",
    [
        "",
        "; onsphere.SphereSGD; onsphere.sphere_groups; onsphere.make_scale_invariant",
        "; onsphere.dynamics",
        "; onsphere.Monitor",
        "; onsphere.curvature.top_eigenvalues",
        "; onsphere.landscape.barrier",
        "; onsphere.ensembles.Ensemble",
    ],
)
def test_the_core_loads_torch_and_numpy_alone(use):
    code = "import sys, torch, numpy; before = set(sys.modules); import onsphere"
    code += f"{use}; print(*set(sys.modules) - before)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.split(".")[0] for name in output.split()} - set(sys.stdlib_module_names)
    assert loaded <= {"onsphere", "torch", "numpy", "sympy", "mpmath", "networkx", "jinja2", "markupsafe"}
    assert "onsphere.lab" not in output.split()
