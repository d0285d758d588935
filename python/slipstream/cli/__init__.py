"""The `slipstream` command. Each command imports what it needs inside its function, so that start-up stays fast."""
