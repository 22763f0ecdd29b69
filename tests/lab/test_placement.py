"""What --executor says, parsed once; what it may not say, in one sentence."""

import pytest
from pydantic import ValidationError

from onsphere.lab import map_regimes
from onsphere.lab.options import EngineOptions, InputError, one_line
from onsphere.lab.placement import Local, RayCluster, missing_package, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", Local()),
        ("local:4", Local(4)),
        ("ray", RayCluster()),
        ("ray:num_cpus=2,num_gpus=0.5", RayCluster(num_cpus=2.0, num_gpus=0.5)),
        ("ray:address=head:6379", RayCluster("head:6379")),
        ("ray://head.cluster:10001", RayCluster("ray://head.cluster:10001")),
        ("ray://[::1]:10001,num_gpus=1", RayCluster("ray://[::1]:10001", num_gpus=1.0)),
    ],
)
def test_a_text_is_parsed(text, expected):
    assert parse(text) == expected
    assert parse(text).to_dict()["kind"] == text[:5].rstrip(":") if text[0] == "l" else "ray"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dask", "allowed are local:N, ray"),
        ("", "allowed are local:N, ray"),
        ("local:", "local:N was '', and must be a whole number from 1 to 1024"),
        ("local:0", "local:N was '0'"),
        ("local:2.5", "a whole number"),
        ("ray:cpus=1", "'cpus=1' is no option of ray"),
        ("ray:num_cpus=1,num_cpus=2", "stands there twice"),
        ("ray:num_gpus=nan", "num_gpus was 'nan', and must be a number from 0 to 4096"),
        ("ray://head", "'head' is no HOST:PORT"),
        ("ray://head:1,address=head:2", "leave one out"),
    ],
)
def test_a_text_that_says_no_executor_is_refused_in_one_sentence(text, said):
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_local_is_the_number_of_workers():
    assert EngineOptions(executor="local:3").workers == 3
    assert EngineOptions(executor="local:3").placement == Local(3) == EngineOptions(workers=3).placement
    again = EngineOptions(executor="local:3").model_dump()
    assert EngineOptions(**again).model_dump() == again
    with pytest.raises(ValidationError) as caught:
        EngineOptions(executor="local:3", workers=2)
    assert one_line(caught.value) == "--executor: local:3 and --workers 2 are not allowed together: leave one out"


def test_ray_splits_a_round_by_the_number_of_workers_and_sends_the_problem():
    options = EngineOptions(executor="ray", workers=1)
    assert (options.workers, options.placement, options.senders) == (1, RayCluster(), 2)
    assert EngineOptions(workers=1).senders == 1


def test_a_field_of_every_run_names_the_option():
    with pytest.raises(InputError, match="executor: 'dask' is not allowed: allowed are local:N"):
        map_regimes(executor="dask")


def test_a_missing_package_is_named_before_there_is_a_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing_package(Local(2)) is None
    with pytest.raises(InputError, match=r"not installed: pip install 'onsphere\[ray\]'"):
        map_regimes(executor="ray", out=tmp_path / "run", train=60, widths=[8], batch_size=16)
    assert not (tmp_path / "run").exists()
