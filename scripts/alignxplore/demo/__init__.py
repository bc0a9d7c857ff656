"""The embedded default: a demo world with planted preferences, and scale models trained on its texts."""
