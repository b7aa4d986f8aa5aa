"""The protocols that ship with the benchmark, one YAML file each; `benchmark.config` reads them."""
