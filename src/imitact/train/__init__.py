"""From samples to a policy directory."""
