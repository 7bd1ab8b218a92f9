"""Deployment: a policy as one file that runs without torch, and the certificate of that file."""
