"""The page of ``affectgpt-r1 app``: try a policy, compare answers, judge them. Gradio stays in :mod:`.page`."""
