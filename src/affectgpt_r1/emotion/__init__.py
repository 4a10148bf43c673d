"""Emotion words: parsing them, and mapping them onto emotion wheels. Pure Python."""
