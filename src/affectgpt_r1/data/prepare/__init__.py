"""Make a data folder in the published layout of videos as people keep them."""
