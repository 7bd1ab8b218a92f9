"""Scripted experts that demonstrate the ALOHA tasks."""
