"""How jobs start and are recorded, and what a run would do: operations, apart from the science."""
