"""Several nodes, with Redis between them and MongoDB behind them, through faults of each."""
