"""The report on evaluated policies and sweeps: queries, statistics, tables, curves and one HTML page."""
