"""One folder of studies for all science tests of a session, whichever process runs them first."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from onsphere.lab.claims import Laboratory
from onsphere.lab.options import InputError

SEEDS = 5


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory):
    """Studies at the small scale. ONSPHERE_CLAIMS may name a folder of ``onsphere claims run`` to read them from."""
    given = os.environ.get("ONSPHERE_CLAIMS")
    if given:
        return Laboratory(Path(given), seeds=SEEDS)
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "claims"
    folder.mkdir(exist_ok=True)
    return Laboratory(folder, seeds=SEEDS)


@pytest.fixture(scope="session")
def evidence(laboratory):
    """What a study shows on one data set: run by the first test that asks, in this process or another one."""
    found = {}

    def of(study, variant):
        key = study.name, variant.data
        if key not in found:
            with FileLock(laboratory.folder / f"{study.name}-{variant.slug}.lock"):
                try:
                    found[key] = laboratory.evidence(study, variant)
                except InputError as error:
                    if "dataset" not in str(error):
                        raise
                    found[key] = str(error)
        if isinstance(found[key], str):
            pytest.skip(found[key])
        return found[key]

    return of
