"""What worker processes import, imported once by the server that tests fork workers from (tests/lab/conftest.py)."""

import faulthandler, signal, threading, os
faulthandler.register(signal.SIGUSR1, all_threads=True, file=open('/tmp/cov/stacks.txt','a'))
import torch

import onsphere.lab.population.shard  # noqa: F401
from onsphere.tracing import trace

# The first trace imports the compiler's front end. Nothing here may start a thread, which no fork would take along.
trace(torch.neg, torch.zeros(1))

print(threading.enumerate(), len(os.listdir('/proc/self/task')), file=open('/tmp/cov/stacks.txt','a'), flush=True)
