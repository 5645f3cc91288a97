"""One Cell to its records: the frozen model, the search for each example's threshold, predictions, attention drift."""
