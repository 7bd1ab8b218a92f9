"""Viewer: datasets, trainings and evaluations as one HTML page, or sent to Rerun."""
