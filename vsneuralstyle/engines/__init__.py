"""The networks of `vsneuralstyle.networks`, fast."""
