"""How often a policy succeeds, and how sure that is."""
