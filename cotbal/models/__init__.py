"""Models as a config names them: loaded whole, with adapters, quantised, sharded."""
