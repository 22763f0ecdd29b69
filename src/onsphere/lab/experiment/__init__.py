"""What is the same for all experiments, written once: a plan, the run from its fields to its page."""

from onsphere.lab.experiment.planning import PlannedStage, TrainingPlan
from onsphere.lab.experiment.session import Session, Stop, never
from onsphere.lab.experiment.skeleton import Experiment, Refused, plan, trained

__all__ = ["Experiment", "PlannedStage", "Refused", "Session", "Stop", "TrainingPlan", "never", "plan", "trained"]
