"""Evaluation: likelihood, judges trained on real data, statistics of text, the table and the report."""
