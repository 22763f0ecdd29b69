"""Many copies of one network, each with its own learning rate and seed, trained by one functional step.

Problem, Copy, Phase what is trained
Plan, choose_plan    how it is executed, chosen by a short timing
Engine, State        the copies themselves
Shard, run_shard     copies with their own checkpoint and readings on disk
Readings             what every step recorded, and what follows from it
"""

from onsphere.lab.population.choose import choose_plan
from onsphere.lab.population.copies import Copy, Problem
from onsphere.lab.population.engine import Engine, Plan, State
from onsphere.lab.population.phases import Phase
from onsphere.lab.population.readings import Readings
from onsphere.lab.population.shard import Shard, run_shard, stack_starts
from onsphere.lab.population.shard_folder import ShardFolder
from onsphere.lab.population.spheres import Spheres

__all__ = ["Copy", "Engine", "Phase", "Plan", "Problem", "Readings", "Shard", "ShardFolder", "Spheres", "State"]
__all__ += ["choose_plan", "run_shard", "stack_starts"]
