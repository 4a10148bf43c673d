"""Load a trained policy and label any video or data folder with it."""
