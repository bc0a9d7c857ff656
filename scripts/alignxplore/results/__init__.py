"""Tables, figures, the case study and the report site, from the records of a run."""
