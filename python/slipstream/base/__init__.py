"""What every room may use: errors, types, configuration, logging. Knows nothing of the other rooms."""
