"""Studies that no experiment answers: functions from a seed to numbers, with the core alone or a little training."""
