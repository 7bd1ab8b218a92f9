"""ACT as a network, its settings, and the policy that runs it."""
