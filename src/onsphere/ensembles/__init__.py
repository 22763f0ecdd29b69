"""Ensembles on a memory budget: how good they are, how that grows, how to spend the budget, serving.

Averages of members' predictions, their metrics and calibration errors; the NLL at a temperature and at the best one;
every ensemble size from one pool; power laws and the best memory split they predict; widths that fit a budget; and the
ensemble as one module. Of the functions on predictions, inputs are numpy arrays or torch tensors
``[members, examples, classes]``.
"""

from onsphere.ensembles.averaging import average_logits, average_probabilities
from onsphere.ensembles.budget import BudgetError, Size, Split, size_of, splits, width_for
from onsphere.ensembles.calibration import Calibration, best_temperature, calibrated_nll, temperature_nll
from onsphere.ensembles.calibration_errors import ace, ece, sce, tace
from onsphere.ensembles.metrics import (
    Metrics,
    accuracy,
    brier,
    disagreement,
    evaluate,
    misclassification_auroc,
    nll,
    top_k_accuracy,
)
from onsphere.ensembles.module import Ensemble
from onsphere.ensembles.pools import FailedMember, PoolSize, disjoint_groups, failed_members, pool_metrics
from onsphere.ensembles.power_laws import PowerLaw, PowerLawError, fit_power_law
from onsphere.ensembles.prediction import PredictedSplit, SplitPrediction, pool_values, predict_split

__all__ = [
    "BudgetError",
    "Calibration",
    "Ensemble",
    "FailedMember",
    "Metrics",
    "PoolSize",
    "PowerLaw",
    "PowerLawError",
    "PredictedSplit",
    "Size",
    "Split",
    "SplitPrediction",
    "accuracy",
    "ace",
    "average_logits",
    "average_probabilities",
    "best_temperature",
    "brier",
    "calibrated_nll",
    "disagreement",
    "disjoint_groups",
    "ece",
    "evaluate",
    "failed_members",
    "fit_power_law",
    "misclassification_auroc",
    "nll",
    "pool_metrics",
    "pool_values",
    "predict_split",
    "sce",
    "size_of",
    "splits",
    "tace",
    "temperature_nll",
    "top_k_accuracy",
    "width_for",
]
