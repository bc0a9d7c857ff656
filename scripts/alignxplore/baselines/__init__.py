"""Earlier methods that infer preferences, as baselines of Table 2."""
