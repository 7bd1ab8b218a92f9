"""What the command line can do: one room a verb, with its settings and its run."""
