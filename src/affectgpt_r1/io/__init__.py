"""Reading files of strangers, writing files whole, and text that is safe to print."""
