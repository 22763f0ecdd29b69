"""The loop that drives an engine: what was lost is given out again, and what cannot be trained is named."""

import random

import pytest

from onsphere.lab.execution import Interrupted, WorkerDied
from onsphere.lab.executors import driving
from onsphere.lab.executors.driving import Outcome, drive
from onsphere.lab.population import Plan, Shard
from onsphere.lab.workers import DEATHS

PLAN = Plan("loop", 1, compiled=False)


class Simulated:
    """An engine that trains nothing: how the shards come to an end is decided by ``fate(name, tries)``."""

    def __init__(self, fate=lambda name, tries: "ended", stopping=lambda: False):
        self.fate, self.tries, self.at_work, self.stopped, self.most = fate, {}, [], False, 0
        self.news = []

    def submit(self, shards, plan):
        for shard in shards:
            self.tries[shard.name] = self.tries.get(shard.name, 0) + 1
            self.at_work.append(shard.name)
        self.most = max(self.most, len(self.at_work))

    def outcomes(self):
        random.Random(len(self.at_work)).shuffle(self.at_work)
        half, self.at_work = self.at_work[: len(self.at_work) // 2 + 1], self.at_work[len(self.at_work) // 2 + 1 :]
        for name in half:
            kind = "stopped" if self.stopped else self.fate(name, self.tries[name])
            yield Outcome(name, kind, ValueError(f"{name} is wrong") if kind == "failed" else None, 10)

    def steps(self):
        news, self.news = self.news, []
        return news

    def stop(self):
        self.stopped = True


def shards(number):
    return [Shard(f"part-{i}", ()) for i in range(number)]


def run(engine, number, stop=lambda: False):
    done = []
    try:
        return list(drive(engine, shards(number), PLAN, stop, done.append)), sum(done)
    except Exception as error:
        error.done = sum(done)
        raise


def test_every_shard_ends_once_and_no_more_are_out_than_the_window(monkeypatch):
    monkeypatch.setattr(driving, "WINDOW", 7)
    engine = Simulated()
    ended, done = run(engine, 40)
    assert sorted(ended) == sorted(s.name for s in shards(40)) and done == 400 and engine.most == 7


def test_what_is_lost_is_given_out_again():
    engine = Simulated(lambda name, tries: "lost" if tries < DEATHS else "ended")
    ended, done = run(engine, 5)
    assert len(ended) == 5 and set(engine.tries.values()) == {DEATHS} and done == 50


def test_what_is_lost_again_and_again_is_named_when_all_others_have_ended():
    engine, ended = Simulated(lambda name, tries: "lost" if name == "part-1" else "ended"), []
    with pytest.raises(WorkerDied, match=f"trained part-1 was lost {DEATHS} times in a row.*all other shards have end"):
        ended.extend(drive(engine, shards(4), PLAN, lambda: False, lambda done: None))
    assert engine.tries["part-1"] == DEATHS and sorted(engine.tries) == [s.name for s in shards(4)]


def test_a_shard_that_gets_further_between_its_deaths_is_not_given_up():
    engine = Simulated()

    def fate(name, tries):
        engine.news.append((name, tries, True))  # it begins further on each time
        return "lost" if tries < 3 * DEATHS else "ended"

    engine.fate = fate
    ended, _ = run(engine, 1)
    assert ended == ["part-0"] and engine.tries["part-0"] == 3 * DEATHS


def test_an_error_of_a_shard_is_raised_and_the_others_are_asked_to_stop():
    engine = Simulated(lambda name, tries: "failed")
    with pytest.raises(ValueError, match=r"part-\d is wrong"):
        run(engine, 5)
    assert engine.stopped


def test_stopped_shards_and_those_not_given_out_are_an_interruption(monkeypatch):
    monkeypatch.setattr(driving, "WINDOW", 3)
    asked = iter([False, True])
    engine = Simulated()
    with pytest.raises(Interrupted):
        run(engine, 20, stop=lambda: next(asked, True))
    assert engine.stopped and len(engine.tries) < 20 and not engine.at_work


def test_a_stop_after_the_last_word_of_all_is_none():
    engine = Simulated()
    assert len(run(engine, 3, stop=lambda: sum(engine.tries.values()) == 3 and not engine.at_work)[0]) == 3
