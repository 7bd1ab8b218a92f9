"""ACT as a network, and the policy around it."""
