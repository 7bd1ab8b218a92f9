"""Functions of `import imitact` that do what the command line does, in the same words."""
