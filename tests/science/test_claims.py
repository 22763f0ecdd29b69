"""The claims of the papers at the small scale with seeds 0 to 4: what was recorded is seen again."""

import math

import pytest

from onsphere.lab.claims import CLAIMS

pytestmark = [pytest.mark.science, pytest.mark.slow]

CASES = [
    pytest.param(claim, variant, id=f"{claim.id}-{variant.slug}")
    for claim in sorted(CLAIMS, key=lambda claim: claim.study.name)
    for variant in claim.variants("small")
]


@pytest.mark.parametrize(("claim", "variant"), CASES)
def test_the_recorded_verdict_is_seen(claim, variant, evidence):
    seen = claim.rule.decide(claim.measure(evidence(claim.study, variant)))
    assert len(seen.numbers) > 1
    assert all(math.isfinite(number) for number in seen.numbers), seen
    recorded = claim.recorded[variant.data]
    if recorded in ("holds", "does not hold"):
        assert seen.verdict == recorded, f"{claim.says} {claim.number}: {seen}; {claim.rule}"
