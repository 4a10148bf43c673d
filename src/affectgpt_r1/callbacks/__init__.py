"""Lightning callbacks: progress, completions tables, checkpoints, unreadable clips."""
