"""How many logits exist at once in :mod:`~affectgpt_r1.engine.fused_linear_logps`; ``plan`` counts memory by it."""

ROWS = 2048  # tokens
COLUMNS = 512  # of the vocabulary on a CPU: chunks that stay in its cache
ACCELERATOR_COLUMNS = 8192
KEPT_LOGITS = 2**24  # where the weight's gradient is summed in the forward pass
