"""AlignXplore: inductive preference inference from behavioural signals, as plain functions."""
