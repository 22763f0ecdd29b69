"""Runs that were changed between start and resume are refused by the name of the file; others give the same bits."""

import json
import shutil

import pytest

from command import here
from onsphere.lab import InputError, Interrupted, resume_regimes
from onsphere.lab.store import Damaged, Run
from store_runs import findings, strip_digests, train


def edit(path, change):
    """Change the values of a JSON file in place; its digest stays what it was."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def flip(path, at, bit=0):
    """Flip one bit of a file; ``at`` is a fraction of its length."""
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)


def checkpoint(run):
    return next(run.glob("shards/*/checkpoint.safetensors"))


def begun(run):
    """The folder of the shard that has a checkpoint."""
    return checkpoint(run).parent


def ended(run):
    return next(run.glob("shards/*/done.json")).parent


def refused(run, said):
    """Resume in this process; the one line of the refusal."""
    process = here("resume", "run", folder=run.parent)
    assert process.returncode == 2, process.stderr
    line = process.stderr.strip()
    assert len(line.splitlines()) == 1 and process.stdout == ""
    assert said in line, line
    assert "as it was" in line and "new run" in line  # the two ways on
    assert not (run / "result.json").exists()
    return line


SPEC = {
    "more steps": {"steps": 140},
    "fewer steps": {"steps": 60},
    "another range": {"elr_max": 2.0},
    "more ELRs": {"elrs": 3},
    "another seed": {"seed": 1},
    "another batch size": {"batch_size": 8},
    "other engine": {"chunk": 4},
    "more rounds": {"refine": 1},
}


@pytest.mark.parametrize("change", SPEC.values(), ids=SPEC.keys())
def test_an_edited_spec(cut, change):
    edit(cut / "run.json", lambda values: values["spec"].update(change))
    refused(cut, "run.json was changed")


@pytest.mark.parametrize("change", SPEC.values(), ids=SPEC.keys())
def test_an_edited_spec_whose_digest_was_taken_away(cut, change):
    edit(cut / "run.json", lambda values: [values["spec"].update(change), values.pop("digest")])
    refused(cut, "shard.json was made for another question")


PLAN = {
    "another mode": lambda engine: engine["plan"].update(mode="vmap"),
    "another chunk": lambda engine: engine["plan"].update(chunk=4),
    "more workers": lambda engine: engine.update(workers=4),
    "another layout": lambda engine: engine["plan"].update(channels_last=True),
    "no plan": lambda engine: engine.pop("plan"),
    "a plan of the wrong type": lambda engine: engine.update(plan=[1, 2]),
    "workers of the wrong type": lambda engine: engine.update(workers="two"),
    "a chunk that is none": lambda engine: engine["plan"].update(chunk=None),
}


@pytest.mark.parametrize("change", PLAN.values(), ids=PLAN.keys())
@pytest.mark.parametrize("digest", ["kept", "removed"])
def test_an_edited_plan(cut, change, digest):
    edit(cut / "engine.json", lambda engine: [change(engine), digest == "removed" and engine.pop("digest")])
    refused(cut, ".json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"plan": NaN}', b"[" * 100_000])
@pytest.mark.parametrize("name", ["engine.json", "shard.json", "done.json", "run.json"])
def test_a_garbled_file(cut, name, content):
    folder = {"shard.json": begun(cut), "done.json": ended(cut)}.get(name, cut)
    (folder / name).write_bytes(content)
    line = refused(cut, name)
    assert content or "0 bytes" in line


@pytest.mark.parametrize("bit", range(0, 8, 3))
@pytest.mark.parametrize("at", [0.002, 0.3, 0.6, 0.9, 1.0])
def test_a_flipped_bit_in_a_checkpoint(cut, at, bit):
    flip(checkpoint(cut), at, bit)
    refused(cut, "checkpoint.safetensors")


@pytest.mark.parametrize("file", ["weights.safetensors", "evaluations.parquet", "readings-00000.parquet"])
@pytest.mark.parametrize("at", [0.01, 0.5, 0.98])
def test_a_flipped_bit_in_an_ended_shard(cut, file, at):
    flip(ended(cut) / file, at)
    refused(cut, file)


@pytest.mark.parametrize("where", [begun, ended])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_missing_part_of_the_readings(cut, where, which):
    part = sorted(where(cut).glob("readings-*.parquet"))[which]
    part.unlink()
    assert "is missing" in refused(cut, part.name)


@pytest.mark.parametrize("file", ["engine.json", "shard.json", "weights.safetensors", "evaluations.parquet"])
def test_a_missing_file(cut, file):
    path = cut / file if file == "engine.json" else ended(cut) / file
    path.unlink()
    assert "is missing" in refused(cut, file)


def test_a_part_that_is_put_in_the_place_of_another(cut):
    first, second = sorted(begun(cut).glob("readings-*.parquet"))[:2]
    shutil.copy(first, second)
    refused(cut, second.name)


def test_a_shard_of_another_run(cut, tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path / "other", until=100, elr_max=2.0)
    target = begun(cut)
    shutil.rmtree(target)
    shutil.copytree(begun(tmp_path / "other"), target)
    refused(cut, "shard.json was made for another question")


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"PAR1"])
@pytest.mark.parametrize("file", ["checkpoint.safetensors", "readings-00001.parquet"])
def test_empty_and_alien_files_are_named(cut, file, content):
    (begun(cut) / file).write_bytes(content)
    assert content or "0 bytes" in refused(cut, file)


def test_other_data(cut):
    from onsphere.lab.data import load

    with pytest.raises(InputError, match="the data are not those") as caught:
        resume_regimes(Run.open(cut), data=load("digits", train=60, label_noise=0.5))
    assert "new run" in str(caught.value)


def test_an_untouched_run_gives_the_same_bits(cut, whole_run):
    resume_regimes(Run.open(cut))
    assert findings(cut) == findings(whole_run)


def test_a_run_without_digests_is_continued_and_says_so(cut, whole_run):
    strip_digests(cut)
    process = here("resume", "run", folder=cut.parent)
    assert process.returncode == 0, process.stderr
    assert "made without digests" in process.stderr
    assert findings(cut) == findings(whole_run)


def test_what_is_missing_or_another_is_seen_in_runs_without_digests_too(cut):
    strip_digests(cut)
    sorted(begun(cut).glob("readings-*.parquet"))[1].unlink()
    refused(cut, "readings-00001.parquet")


def test_what_a_desktop_leaves_behind_is_no_part_of_a_run(cut, whole_run):
    (cut / "shards" / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    (cut / "shards" / "Thumbs.db").write_bytes(b"")
    (cut / "shards" / "notes").mkdir()
    shutil.copytree(ended(cut), cut / "shards" / f"{ended(cut).name} copy")
    assert here("resume", "run", folder=cut.parent).returncode == 0
    assert findings(cut) == findings(whole_run)


def test_damage_crosses_processes():
    import pickle
    from pathlib import Path

    error = pickle.loads(pickle.dumps(Damaged(Path("a/b.json"), "is damaged")))
    assert isinstance(error, Damaged) and "a/b.json is damaged; put the file back" in str(error)
