"""`robustatt doctor`: a table of checks (`table`), and attacks whose answers must agree (`deep`)."""
