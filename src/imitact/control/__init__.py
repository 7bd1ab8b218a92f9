"""Control of a robot: limits, safety, and the loop that keeps time."""
