"""What worker processes import, imported once by the server that tests fork workers from (tests/forks.py)."""

import torch

import onsphere.lab.population.shard  # noqa: F401
from onsphere.tracing import trace

# The first trace imports the compiler's front end. Nothing here computes in parallel: no fork takes threads along.
trace(torch.neg, torch.zeros(1))
