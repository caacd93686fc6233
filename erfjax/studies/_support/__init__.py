"""What several studies share: pairs of closed form and measurement, training, networks, seeds."""
