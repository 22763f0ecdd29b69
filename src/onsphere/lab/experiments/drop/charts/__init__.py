"""The charts of a drop: test error over the start, the matrix, what is left after the drop, barriers."""

from onsphere.lab.experiments.drop.charts.errors import averages_chart, error_chart, matrix_chart, stages_chart
from onsphere.lab.experiments.drop.charts.flatness import after_chart, at_loss_chart, norms_chart
from onsphere.lab.experiments.drop.charts.paths import barrier_chart

__all__ = ["after_chart", "at_loss_chart", "averages_chart", "barrier_chart", "error_chart", "matrix_chart"]
__all__ += ["norms_chart", "stages_chart"]
