"""Environment and policy to contributions: rollouts, gradients, and the fleets that run them."""
