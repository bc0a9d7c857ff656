"""The embedded default: a demo world with planted preferences, and scale models that live in it."""
