"""Binds engine, models and chat into loaded model instances, each in its own process for the server."""
