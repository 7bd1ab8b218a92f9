"""To look before one trusts: demonstrations, trainings and evaluations as one page."""
