"""Which draft model to use with a target, or none: measured on this machine, with error bars. See docs/pair.md."""
