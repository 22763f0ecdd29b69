"""The wheel and the sdist, installed into fresh environments without the checkout: they import, run and are typed.

The environments see the packages that are installed here, either all of them or the core's dependencies alone, so that
nothing is fetched.
"""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("user_script.py")
SMALL = "toy periods --steps 300 --out run"


def run(*words, folder):
    """A command that is told nothing of where the checkout is."""
    without = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True, env=without)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the sdist, and the wheel that is built of it."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def named(folder, ending):
    (found,) = folder.glob(f"*{ending}")
    return found


def place_of(name):
    """The entries of site-packages that a distribution installs, but for what is not below it."""
    files = distribution(name).files or ()
    return {Path(distribution(name).locate_file(".")) / file.parts[0] for file in files if file.parts[0] != ".."}


def needed(names):
    """Distributions with all that they need, as their metadata say; what is not installed is not needed here."""
    here, found, waiting = {d.metadata["Name"].lower().replace("_", "-") for d in distributions()}, set(), list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found or name not in here:
            continue
        found.add(name)
        wanted = [one for one in distribution(name).requires or () if "extra ==" not in one]
        waiting += [re.match(r"[\w.-]+", one)[0] for one in wanted]
    return found


def environment(folder, packages):
    """A fresh environment that sees the packages in a folder besides its own; returns its Python."""
    assert run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent).returncode == 0
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "seen.pth").write_text(f"{packages}\n", encoding="utf-8")
    return folder / "bin" / "python"


def install(python, what, folder):
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-build-isolation")
    done = run(*pip, "--ignore-installed", what, folder=folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def everything():
    """Where the packages of this environment are."""
    return Path(distribution("torch").locate_file("."))


def test_what_is_in_them(built):
    wheel = set(zipfile.ZipFile(named(built, ".whl")).namelist())
    assert "onsphere/py.typed" in wheel and not {name for name in wheel if name.startswith(("tests", "docs"))}
    with tarfile.open(named(built, ".tar.gz")) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    for name in ("Makefile", "constraints.txt", "CITATION.cff", "mkdocs.yml", "docs/index.md", "tests/test_docs.py"):
        assert name in names
    assert not {name for name in names if name.startswith(("site/", "runs/", ".venv"))}


@pytest.mark.parametrize("ending", [".whl", ".tar.gz"])
def test_it_installs_and_runs_without_the_checkout(built, everything, ending, tmp_path):
    python = environment(tmp_path / "env", everything)
    install(python, named(built, ending), tmp_path)
    done = run(python, "-c", "import onsphere; print(onsphere.__file__)", folder=tmp_path)
    assert (tmp_path / "env").as_posix() in done.stdout, done.stderr
    command = tmp_path / "env" / "bin" / "onsphere"
    assert run(command, "--version", folder=tmp_path).stdout.startswith("onsphere 0.2.0 (torch ")
    if ending == ".whl":
        done = run(command, *SMALL.split(), folder=tmp_path)
        assert done.returncode == 0 and (tmp_path / "run" / "report.html").exists(), done.stderr


def test_the_core_needs_its_dependencies_alone(built, tmp_path):
    seen = tmp_path / "packages"
    seen.mkdir()
    for name in needed(["torch", "numpy", "scipy"]):
        for entry in place_of(name):
            if entry.exists() and not (seen / entry.name).exists():
                (seen / entry.name).symlink_to(entry)
    python = environment(tmp_path / "env", seen)
    install(python, named(built, ".whl"), tmp_path)
    assert (
        run(python, "-c", "import pydantic", folder=tmp_path).returncode == 1
    )  # the laboratory's packages are not there
    done = run(python, SCRIPT, folder=tmp_path)
    assert done.returncode == 0 and "Monitor of AdamW" in done.stdout, done.stderr
    for words in ((python, "-m", "onsphere"), (tmp_path / "env" / "bin" / "onsphere", "regimes")):
        done = run(*words, folder=tmp_path)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "pip install 'onsphere[lab]'" in done.stderr
