"""The registry: every claim can be asked, at both scales, and says where it comes from."""

import re

import pytest

from onsphere.lab.claims import CLAIMS, TOPICS, chosen, studies
from onsphere.lab.claims.rules import VERDICTS
from onsphere.lab.claims.run import Laboratory
from onsphere.lab.claims.study import SCALES
from onsphere.lab.options import InputError
from onsphere.lab.registry import entry_of

STUDIES = studies()
RUNS = [(study, scale, variant) for study in STUDIES for scale in SCALES for variant in study.variants(scale)]
OF_A_SPEC = [run for run in RUNS if run[0].command]


def test_there_are_enough_and_each_has_a_name_of_its_own():
    assert len(CLAIMS) >= 40
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert len({study.name for study in STUDIES}) == len({id(study) for study in STUDIES})
    assert {claim.topic for claim in CLAIMS} == set(TOPICS)


def test_a_claim_is_a_sentence_with_a_source_and_what_was_recorded():
    for claim in CLAIMS:
        assert re.fullmatch(r"[a-z-]+\.[a-z0-9-]+", claim.id)
        assert claim.says.endswith(".") and claim.source and claim.number, claim.id
        assert claim.recorded and claim.recorded.keys() <= {variant.data for variant in claim.study.small}, claim.id
        assert set(claim.recorded.values()) <= set(VERDICTS), claim.id
        assert claim.rule.low < claim.rule.high, claim.id


@pytest.mark.parametrize("topic", ["regimes", "spectrum", "drop", "periods", "split"])
def test_the_main_topics_are_asked_of_digits_and_of_fashion_mnist(topic):
    data = [set(claim.recorded) for claim in CLAIMS if claim.topic == topic]
    assert any(found == {"digits", "Fashion-MNIST"} for found in data)


@pytest.mark.parametrize(
    "paper", ["NeurIPS 2021", "NeurIPS 2022", "et al., 2022", "2020", "thesis", "NeurIPS 2024", "gas", "free"]
)
def test_every_paper_has_claims(paper):
    assert any(paper in claim.source for claim in CLAIMS)


@pytest.mark.parametrize(("study", "scale", "variant"), OF_A_SPEC, ids=lambda value: getattr(value, "name", None))
def test_every_spec_is_valid_and_has_the_places_that_claims_name(study, scale, variant, tmp_path):
    options = entry_of(study.command).options
    laboratory = Laboratory(tmp_path, scale=scale, seeds=5)
    specs = [options(**fields) for fields in laboratory.fields(study, variant).values()]
    assert len(specs) == (5 if study.repeat else len(variant.parts))
    assert all(getattr(spec, "seeds", 5) == 5 for spec in specs) or study.repeat
    assert variant.places.keys() == study.small[0].places.keys()
    known = {*(value for spec in specs for value in _numbers(spec))}
    for name, place in variant.places.items():
        assert any(abs(value / place - 1) < 0.05 for value in known if value) or name == "equilibrium", name
    assert laboratory.commands(study, variant)[0].startswith(f"onsphere {study.command}")


def _numbers(spec):
    if hasattr(spec, "grid") and callable(spec.grid):
        yield from spec.grid()
    for value in spec.model_dump().values():
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield number


def test_claims_are_chosen_by_name_or_topic_in_the_order_of_the_registry():
    assert chosen([]) == list(CLAIMS)
    assert {claim.topic for claim in chosen(["laws"])} == {"laws"}
    assert [claim.id for claim in chosen(["split.advantage", "regimes.three"])] == ["regimes.three", "split.advantage"]
    with pytest.raises(InputError, match=r"there is no claim 'regimes.four'; .* topics are regimes, "):
        chosen(["regimes.three", "regimes.four"])
