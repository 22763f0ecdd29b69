"""The public names are exactly these; importing the package loads torch and numpy at most."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import onsphere
import onsphere.lab

CORE = {
    *("Sphere", "SphereSGD", "SymmetryError", "__version__"),
    *("correct_decay", "keep_on_sphere", "make_scale_invariant", "release", "sphere_groups"),
    *("Symmetries", "find_symmetries", "noether_residual", "norm_groups", "param_groups", "regroup"),
    *("Monitor", "decouple", "fuse"),
}
LAB = {
    *("monitor_page", "write_readings"),
    *("InputError", "Interrupted", "Run", "map_regimes", "resume_regimes", "symmetries_page"),
    *("toy_free_energy", "toy_periods", "toy_regimes", "toy_thermo", "train_periods", "resume_periods"),
    *("map_spectrum", "resume_spectrum", "drop_elr", "resume_drop", "map_zones", "resume_zones"),
    *("learn_features", "resume_features"),
    *("measure_thermo", "resume_thermo"),
    *("stabilise", "resume_stabilise", "compare_conventional", "resume_conventional"),
    *("compare_schedules", "resume_schedules", "split_budget", "resume_split"),
    *("save_ensemble", "load_ensemble"),
    *("plan", "TrainingPlan"),
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


def imported(path):
    """Top-level names of everything a module imports, also inside functions, but for its own package."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.split(".")[0] for name in names} - {"onsphere"} - set(sys.stdlib_module_names)


def test_the_core_imports_torch_numpy_and_scipy_alone():
    source = Path(onsphere.__file__).parent
    core = [path for path in source.rglob("*.py") if "lab" not in path.relative_to(source).parts]
    optional = {path: imported(path) - {"torch", "numpy", "scipy"} for path in core}
    assert len(core) > 90
    assert {path.name: names for path, names in optional.items() if names} == {
        "results.py": {"pandas"},
        "_backends.py": {"numba"},
    }


def test_the_import_contract_names_everything_that_the_laboratory_needs_besides():
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (forbidden,) = [contract["forbidden_modules"] for contract in contracts if "forbidden_modules" in contract]
    needed = set().union(*(imported(path) for path in Path(onsphere.lab.__file__).parent.rglob("*.py")))
    assert needed - {"torch", "numpy", "scipy"} <= set(forbidden)
