"""Many copies of one network, each with its own learning rate and seed, trained by one functional step.

Problem, Copy, Phase what is trained
Plan, choose_plan    how it is executed, chosen by a short timing
Engine, State        the copies themselves
Shard, run_shard     copies with their own checkpoint and readings on disk
Readings             what every step recorded, and what follows from it
Stage, measure_cost  a round that is going to be trained, and what its shards will cost
"""

from onsphere.lab.population.choose import choose_plan
from onsphere.lab.population.copies import Copy, Problem
from onsphere.lab.population.engine import Engine, Plan, State
from onsphere.lab.population.phases import Phase
from onsphere.lab.population.readings import Readings
from onsphere.lab.population.shard import Shard, run_shard, stack_starts
from onsphere.lab.population.shard_folder import ShardFolder
from onsphere.lab.population.sizing import Cost, Stage, measure_cost, same_cost
from onsphere.lab.population.spheres import Spheres

__all__ = ["Copy", "Cost", "Engine", "Phase", "Plan", "Problem", "Readings", "Shard", "ShardFolder", "Spheres", "Stage"]
__all__ += ["State", "choose_plan", "measure_cost", "run_shard", "same_cost", "stack_starts"]
