"""Compare policies on the test split, and score files of predictions."""
