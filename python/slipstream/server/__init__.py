"""The HTTP API: wire formats in, generation specs out, events back to bytes. Never imports the native core."""
