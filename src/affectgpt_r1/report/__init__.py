"""The report on the ablation sweeps: queries, statistics, tables, curves and one HTML page. It reads MLflow only."""
