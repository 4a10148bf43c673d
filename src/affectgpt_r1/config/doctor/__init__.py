"""Find what a run would fail over before it starts: the machine, the weights and the data folder of a configuration."""
