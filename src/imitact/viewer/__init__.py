"""The viewer: demonstrations, trainings and evaluations as one HTML page."""
