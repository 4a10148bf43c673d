"""The report on the ablation sweeps: queries, statistics, tables, metrics and one HTML page. It reads MLflow only."""
