"""Names and texts that a page must show and not run."""

SCRIPT = "<img src=x onerror=\"document.title='run'\">"
NAMES = [*(f"clip_{number:02}" for number in range(25)), f"clip {SCRIPT}"]
