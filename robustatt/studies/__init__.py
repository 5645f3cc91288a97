"""Beyond sweeps, one module or package a command: `attend`, `segment`, `transfer`, `paper` and `reproduce`."""
