"""Every machine sees the folder and has the package, or one sentence says which does not."""

import pickle
import sys

import cloudpickle
import pytest

from onsphere.lab.executors import probe as probes
from onsphere.lab.executors.probe import check, check_done, make_look, probing
from onsphere.lab.options import InputError

LOOK = make_look(patience=0.0)


def look(probe, folder=None, **said):
    """What a node says that sees the folder under its name, or another one in its place."""
    place = folder or probe.folder
    paths = [str(place / probe.file(who).name) for who in ("driver", "node-1")]
    return LOOK(paths[0], probe.token, paths[1], "node-1") | said


def refusal(probe, report):
    with pytest.raises(InputError) as caught:
        check(probe, [look(probe), report], patience=0.0)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("--executor: node node-1 ")
    return str(caught.value)


def test_nodes_that_share_the_folder_pass_and_nothing_stays_there(tmp_path):
    with probing(tmp_path / "shards") as probe:
        check(probe, [look(probe)], patience=0.0)
        assert probe.file("node-1").exists()
    assert list((tmp_path / "shards").iterdir()) == []


def test_a_node_without_the_folder_is_named_with_what_to_mount(tmp_path):
    with probing(tmp_path / "shards") as probe:
        said = refusal(probe, look(probe, tmp_path / "elsewhere"))
    assert f"does not see {tmp_path / 'shards'} (FileNotFoundError: No such file or directory); mount that" in said


def test_another_folder_of_the_same_name_is_told_from_this_one(tmp_path):
    (tmp_path / "other").mkdir()
    with probing(tmp_path / "shards") as probe:
        (tmp_path / "other" / probe.file("driver").name).write_text("what another driver wrote")
        assert "does not see" in refusal(probe, look(probe, tmp_path / "other"))
        (tmp_path / "other" / probe.file("driver").name).write_text(probe.token)
        report = look(probe, tmp_path / "other")
        probe.file("node-1").unlink(missing_ok=True)
        with pytest.raises(InputError, match="is not seen here, so it is another folder of the same name; mount this"):
            check(probe, [report], patience=0.0)


def test_a_node_that_cannot_write_is_named(tmp_path):
    with probing(tmp_path / "shards") as probe:
        assert "cannot write" in refusal(probe, look(probe, wrote=False, reason="OSError: Read-only file system"))


def test_a_node_without_the_package_or_with_another_version_is_named(tmp_path):
    with probing(tmp_path / "shards") as probe:
        missing = look(probe, missing="ModuleNotFoundError: No module named 'onsphere'")
        assert "cannot import onsphere (ModuleNotFoundError: No module named 'onsphere'); install" in refusal(
            probe, missing
        )
        assert "has onsphere 0.0.9, and this process" in refusal(probe, look(probe, onsphere="0.0.9"))
        assert "has torch 2.4.0, and this process" in refusal(probe, look(probe, torch="2.4.0"))
        assert "has Python 3.9.1, and this process" in refusal(probe, look(probe, python="3.9.1"))


def test_what_goes_to_a_node_needs_nothing_of_the_package(tmp_path, monkeypatch):
    sent = cloudpickle.dumps(LOOK)
    for name in [name for name in sys.modules if name.split(".")[0] == "onsphere"]:
        monkeypatch.setitem(sys.modules, name, None)
    said = pickle.loads(sent)(str(tmp_path / "a"), "token", str(tmp_path / "b"), "node-1")
    assert said["missing"].startswith("ModuleNotFoundError") and said["saw"] is False and said["wrote"] is True


def test_a_shard_that_ended_out_of_sight_is_an_error(tmp_path):
    with pytest.raises(InputError, match="node late has trained part-1, and nothing of it is seen"):
        check_done(tmp_path / "part-1", "late", patience=0.0)
    (tmp_path / "part-1").mkdir()
    (tmp_path / "part-1" / "done.json").write_text("{}")
    check_done(tmp_path / "part-1", "late", patience=0.0)
    assert probes.PATIENCE > 1
