"""What every test file can use: the `mpi` marker."""

pytest_plugins = ["mpi_plugin"]
