"""From a command line to the objects of a run: compose, check, build, and the folder that a run is kept in."""
