"""Pure tensor functions: log-probabilities, advantages, KL estimators and policy losses."""
