"""Whole experiments: data, models, many copies at once, runs on disk, reports, command line."""
