"""Where metrics go: the MLflow database, its logger, and the evaluation tables.

MLflow is imported only inside the functions that use it, so that runs without it need none of it.
"""

from __future__ import annotations

import os

# MLflow reads this when it is first imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
