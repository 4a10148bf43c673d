"""The report on the ablation sweeps: queries, statistics, tables, figures and one HTML page. It reads MLflow only."""
