"""Read strangers' files, write files atomically, and print text safely."""
