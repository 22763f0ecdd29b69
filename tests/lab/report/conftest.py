"""The page of a synthetic map of the regimes, written as every experiment's page is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from onsphere.lab.experiments.regimes.page import report_of
from onsphere.lab.experiments.regimes.words import answer
from onsphere.lab.frame import write_page
from onsphere.lab.store import Run
from synthetic_map import Map, synthetic_map

Written = Callable[[Map, Path], Path]


@pytest.fixture(scope="session")
def regimes() -> Map:
    return synthetic_map()


@pytest.fixture(scope="session")
def write() -> Written:
    """Writes the page and the figures of a map into a new folder; returns the page."""

    def written(one: Map, folder: Path) -> Path:
        run = Run.create(folder, "regimes", one.result.spec.model_dump(mode="json"))
        report = report_of(one.result, one.courses)
        return write_page(run, one.result, report, answer(one.result), len(one.result.cells))

    return written


@pytest.fixture(scope="session")
def page(regimes: Map, write: Written, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(regimes, tmp_path_factory.mktemp("regimes") / "run")
