"""Experts: scripted policies that demonstrate the ALOHA tasks."""
