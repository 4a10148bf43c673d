"""Folders and label files as the data sets are published."""
