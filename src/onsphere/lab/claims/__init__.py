"""The claims of the papers, each with the runs and the rule that decide it: ``onsphere claims``.

run_claims(ids, scale=..., seeds=..., out=...)   run what decides them; what was seen, in a page and in JSON
read_record(out)                                 what was seen last
CLAIMS, chosen(ids), studies()                   the registry
"""

from onsphere.lab.claims.catalogue import CLAIMS, TOPICS, chosen, studies
from onsphere.lab.claims.record import Outcome, read_record
from onsphere.lab.claims.run import Laboratory, run_claims
from onsphere.lab.claims.study import Claim, Evidence, Study, Variant

__all__ = [
    "CLAIMS",
    "TOPICS",
    "Claim",
    "Evidence",
    "Laboratory",
    "Outcome",
    "Study",
    "Variant",
    "chosen",
    "read_record",
    "run_claims",
    "studies",
]
