"""mpitrain: deep-learning training over MPI."""
