"""The claims of the papers at the small scale with seeds 0 to 4: what was recorded is seen again."""

import math

import pytest

from onsphere.lab.claims import CLAIMS

pytestmark = [pytest.mark.science, pytest.mark.slow]

CASES = [
    pytest.param(claim, variant, id=f"{claim.id}-{variant.slug}", marks=[pytest.mark.second] if place else [])
    for claim in sorted(CLAIMS, key=lambda claim: claim.study.name)
    for place, variant in enumerate(claim.variants("small"))
]


def halved(seen):
    """The seeds' numbers with half their distances from the mean, so that the interval is half as wide.

    Rounding differs between machines, and ten of the recorded intervals end near their bound.
    """
    return [(number + seen.middle) / 2 for number in seen.numbers]


@pytest.mark.parametrize(("claim", "variant"), CASES)
def test_the_recorded_verdict_is_seen(claim, variant, evidence):
    seen = claim.rule.decide(claim.measure(evidence(claim.study, variant)))
    assert len(seen.numbers) > 1
    assert all(math.isfinite(number) for number in seen.numbers), seen
    recorded = claim.recorded[variant.data]
    if recorded in ("holds", "does not hold") and seen.verdict != recorded:
        inner = claim.rule.decide(halved(seen)).verdict if claim.rule.of == "mean" else seen.verdict
        assert inner == recorded, f"{claim.says} {claim.number}: {seen}; {claim.rule}"
