"""Clips in the published layout: manifests, media, samplers and the Lightning data modules."""
