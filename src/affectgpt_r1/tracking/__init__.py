"""Where metrics go: the MLflow database, its logger, and the status of runs and sweeps.

MLflow is imported only inside the functions that use it: it takes about 3 s, and every callback imports this package.
"""

from __future__ import annotations

import os

# MLflow reads this when it is first imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
