"""Datasets of demonstrations: opened, read, written, converted, whatever their layout."""
