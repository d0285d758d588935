"""Measurements of models and of the engine, for the command line and for scripts."""
