"""Lets `python -m slipstream` do what the `slipstream` command does."""

from slipstream.cli.main import main

if __name__ == "__main__":
    main()
