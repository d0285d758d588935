"""Model files on disk: where they lie, what their headers say, how they get there. Never runs one."""
